"""A training that was too short is said to be: what came late, what was learned at all, and when nothing is said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipeline.detection.undertrained import undertrained
from pipeline.tasks.registry import TASKS

OF_TEN = math.log(10)


def curve(losses: list[float], column: str = "out_of_sample_loss") -> list[dict[str, Any]]:
    other = {"out_of_sample_loss": None, "train_loss": 0.5}  # as where there are no halves
    return [other | {"epoch": place + 1, column: loss} for place, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([1.94], "was 2.30 without looking at the features and 1.94 within 1 epoch."),
        ([1.94, 1.14], "was 1.94 within 1 epoch and 1.14 within 2 epochs"),
        ([1.94, 1.14, 0.9, 0.7, 0.6], "was 1.14 within 2 epochs and 0.600 within 5 epochs"),
        ([2.29, 2.28, 2.27, 2.26], "hardly more than how frequent the labels are (loss 2.26"),
    ],
)
def test_a_training_that_was_too_short_is_named(losses: list[float], said: str) -> None:
    for column in ("out_of_sample_loss", "validation_loss"):
        found = undertrained(curve(losses, column), OF_TEN)
        assert found is not None
        assert said in found
        assert "training.epochs" in found


@pytest.mark.parametrize(
    "losses",
    [
        [1.2, 0.7, 0.65, 0.64, 0.6, 0.58],  # most was learned before
        [1.1, 0.8, 0.75, 0.9, 1.2, 1.9],  # memorises from the third epoch on
        [1.1, 0.8, 3.5, 3.2, 3.1, 3.0],  # a loss above that of the shares says nothing by falling
    ],
)
def test_a_training_that_settled_is_not(losses: list[float]) -> None:
    assert undertrained(curve(losses), OF_TEN) is None


def test_a_falling_train_loss_is_memorising_and_says_nothing() -> None:
    assert undertrained(curve([1.9, 1.4, 0.6, 0.1], "train_loss"), OF_TEN) is None
    assert undertrained(curve([2.3, 2.29], "train_loss"), OF_TEN) is not None


def test_the_loss_without_features_is_that_of_the_best_constant() -> None:
    classes = np.array([0, 0, 0, 1], dtype=np.int16)
    steps = np.linspace(0.01, 0.99, 99)
    constant = [np.mean(-np.log(np.where(classes == 0, p, 1 - p))) for p in steps]
    assert TASKS["classification"].constant_loss(classes) == pytest.approx(min(constant))
    sets = np.array([[1, 0, 1], [1, 0, 0]], dtype=np.uint8)
    assert TASKS["multilabel"].constant_loss(sets) == pytest.approx(math.log(2))
    targets = np.array([0.0, 1.0, 5.0], dtype=np.float32)
    squares = [np.mean((targets - c) ** 2) for c in np.linspace(0, 5, 501)]
    assert TASKS["regression"].constant_loss(targets) == pytest.approx(min(squares))
