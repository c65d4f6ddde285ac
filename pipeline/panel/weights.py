"""How much each judge counts: by how well it predicts the given labels of rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SKILL = 0.5
"""Share of the best judge's skill below which a judge is clearly worse."""
SHARPNESS = 2.0
"""Power of the relative skill that is a judge's weight."""


@dataclass(frozen=True)
class Measured:
    """A judge out of fold. losses: per judged train row, nats or absolute errors, calibrated at `temperature`."""

    judge: str
    temperature: float
    losses: np.ndarray
    accuracy: float | None


@dataclass(frozen=True)
class Weighed:
    """weight: share of the mean, 0 with the reason in words."""

    measured: Measured
    weight: float
    why: str


def weigh(found: Sequence[Measured], baseline: float) -> list[Weighed]:
    """Weights that add up to 1.

    The skill of a judge is what it takes off the loss of the bare class shares; its weight is the square of its skill
    relative to the best judge's, and 0 below half of that.
    """
    skills = np.array([baseline - float(each.losses.mean()) for each in found])
    best = float(skills.max())
    if best <= 0:
        equal = 1 / len(found)
        return [Weighed(each, equal, "no judge predicts better than the class shares") for each in found]
    relative = skills / best
    raw = np.where(relative < LEAST_SKILL, 0.0, np.maximum(relative, 0) ** SHARPNESS)
    weights = raw / raw.sum()
    return [
        Weighed(each, float(weight), "" if weight else reason(float(share)))
        for each, weight, share in zip(found, weights, relative)
    ]


def reason(share: float) -> str:
    if share <= 0:
        return "left out: it predicts unseen rows no better than the class shares"
    return f"left out as clearly worse: it has {share:.0%} of the best judge's skill on unseen rows"
