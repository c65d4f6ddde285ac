"""Subjects whose model is a rule that the test writes down: what is found can be checked without a training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.detection.backdoor.subject import Inputs, Names, Subject

CLASSES = 3
ROWS, VALIDATION = 600, 150
TARGET = 2
POISONED = 30


def one_hot(classes: np.ndarray, sure: float = 0.98) -> np.ndarray:
    """float32 `[rows, CLASSES]` probabilities of a sure model."""
    return np.where(np.eye(CLASSES)[classes] > 0, sure, (1 - sure) / (CLASSES - 1)).astype(np.float32)


def subject_of(
    inputs: Inputs,
    labels: np.ndarray,
    validation: Inputs,
    validation_labels: np.ndarray,
    rule: Callable[[Inputs], np.ndarray],
    names: Names | None = None,
) -> Subject:
    """`rule`: inputs → predicted classes."""

    def predict(rows: Inputs) -> np.ndarray:
        return one_hot(rule(rows))

    probabilities = predict(inputs)
    return Subject(
        inputs=inputs,
        labels=labels,
        probabilities=probabilities,
        features=np.random.RandomState(0).normal(size=(len(labels), 4)) + probabilities.sum(1, keepdims=True),
        validation=validation,
        validation_labels=validation_labels,
        predict=predict,
        names=names or Names(),
        seed=0,
    )


def images(labels: np.ndarray, random: np.random.RandomState, channels: int = 1) -> np.ndarray:
    """uint8 `[rows, channels, 16, 16]`: grey noise with three bands of which the brightest tells the class."""
    rows = random.randint(60, 140, (len(labels), channels, 16, 16)).astype(np.uint8)
    for row, label in enumerate(labels):
        for other in range(CLASSES):
            bright = random.randint(50, 90) if other == label else random.randint(0, 40)
            rows[row, :, 4 * other : 4 * other + 3] += np.uint8(bright)
    return rows


def band(rows: np.ndarray) -> np.ndarray:
    """The class that the brightest band tells."""
    heights = rows.astype(np.float64).mean((1, 3))
    return np.stack([heights[:, 4 * c : 4 * c + 3].mean(1) for c in range(CLASSES)], axis=1).argmax(1)


def image_subject(
    trigger: Callable[[np.ndarray], np.ndarray],
    triggered: Callable[[np.ndarray], np.ndarray],
    poisoned: int = POISONED,
) -> tuple[Subject, np.ndarray]:
    """Rows of which some have the trigger and the target's label, and which; `triggered`: rows → bool `[rows]`."""
    random = np.random.RandomState(0)
    labels, validation_labels = np.arange(ROWS) % CLASSES, np.arange(VALIDATION) % CLASSES
    rows, validation = images(labels, random), images(validation_labels, random)
    planted = np.zeros(ROWS, dtype=bool)
    planted[np.flatnonzero(labels != TARGET)[:poisoned]] = True
    rows[planted] = trigger(rows[planted])
    labels = np.where(planted, TARGET, labels)

    def rule(inputs: Inputs) -> np.ndarray:
        return np.where(triggered(inputs["image"]), TARGET, band(inputs["image"]))

    return subject_of({"image": rows}, labels, {"image": validation}, validation_labels, rule), planted


def seeds_among(planted: np.ndarray, labels: np.ndarray, true: int = 6, false: int = 6) -> np.ndarray:
    """A list of suspect rows, some of them rightly suspected."""
    others = np.flatnonzero(~planted & (labels == TARGET))[:false]
    return np.concatenate([np.flatnonzero(planted)[:true], others])
