"""How one model is trained: everything that decides the weights besides the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config import Training
from pipeline.errors import InputError

TRIANGLE_PEAK = 0.2
"""Share of the steps at which the triangular schedule is highest (Bae et al. 2024: epoch 5 of 25)."""


@dataclass(frozen=True)
class Recipe:
    """An optimizer for `steps` steps of `batch_size` rows. `momentum`: β₁ where it is Adam's; `beta2`: Adam's."""

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
    """The recipe for `rows` training rows.

    Raises InputError when there are fewer steps than checkpoints.
    """
    batch_size = min(config.batch_size, rows)
    steps = config.epochs * steps_per_epoch(rows, batch_size)
    if steps < config.checkpoints:
        raise InputError(
            f"training.checkpoints is {config.checkpoints}, but {rows} rows give only {steps} steps",
            "Lower training.checkpoints, or raise training.epochs.",
        )
    return Recipe(
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        optimizer=config.optimizer,
        beta2=config.beta2,
    )
