"""The recipe of a training: everything besides the rows that decides the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config import Training
from pipeline.errors import InputError

TRIANGLE_PEAK = 0.2
"""The triangular schedule peaks after this share of the steps (Bae et al. 2024: epoch 5 of 25)."""


@dataclass(frozen=True)
class Recipe:
    """The optimizer, its settings, and how many steps of `batch_size` rows it takes.

    Attributes:
        schedule: of the learning rate: `constant`, `cosine` or `triangular`.
        momentum: of SGD; β₁ for Adam and AdamW.
        beta2: β₂ of Adam and AdamW; SGD ignores it.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: str
    batch_size: int
    steps: int
    seed: int
    optimizer: str = "sgd"
    beta2: float = 0.999

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step` (counted from 0)."""
        done = step / self.steps
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "triangular":
            rising = (step + 1) / (self.steps * TRIANGLE_PEAK)
            return self.learning_rate * min(rising, (1 - done) / (1 - TRIANGLE_PEAK), 1.0)
        return self.learning_rate


def steps_per_epoch(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def make_recipe(config: Training, rows: int, seed: int) -> Recipe:
    """The recipe for `rows` train rows.

    Raises:
        InputError: the training has fewer steps than checkpoints.
    """
    batch_size = min(config.batch_size, rows)
    steps = config.known_epochs * steps_per_epoch(rows, batch_size)
    if steps < config.checkpoints:
        raise InputError(
            f"training.checkpoints is {config.checkpoints}, but {rows} rows give only {steps} steps",
            "Lower training.checkpoints, or raise training.epochs.",
        )
    return Recipe(
        learning_rate=config.known_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        optimizer=config.optimizer,
        beta2=config.beta2,
    )
