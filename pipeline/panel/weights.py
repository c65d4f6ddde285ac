"""The weight of each judge, by how well it predicts the given labels of rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SKILL = 0.6
"""A judge with a smaller share of the best judge's skill counts as clearly worse."""
SHARPNESS = 4.0
"""The weight of a judge is proportional to its relative skill to this power."""


@dataclass(frozen=True)
class Measured:
    """The quality of a judge, out of fold on the judged train rows and calibrated.

    Attributes:
        judge: its name.
        temperature: of the calibration.
        error: mean squared error of the probabilities, or mean absolute error of the targets for regression; weights
            are computed from it.
        log_loss: in nats; None for regression.
        accuracy: None for regression.
    """

    judge: str
    temperature: float
    error: float
    log_loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Weighed:
    """The quality and the weight (a share of the mean) of a judge; `why` says in words why a weight is 0."""

    measured: Measured
    weight: float
    why: str


def weigh(found: Sequence[Measured], baseline: float) -> list[Weighed]:
    """Compute the weights of the judges, whose sum is 1.

    The skill of a judge is `baseline` minus its error. Its relative skill is the ratio to the skill of the best judge.
    The weight is proportional to the relative skill to the power SHARPNESS, and 0 for a relative skill below
    LEAST_SKILL. The error is squared error instead of log loss, because wrong labels with a pattern reward a judge that
    has learnt the pattern, and log loss rewards it most.

    Args:
        found: the quality of each judge.
        baseline: the error of the constant prediction (`pooling.baselines`).
    """
    skills = np.array([baseline - each.error for each in found])
    best = float(skills.max())
    if best <= 0:
        equal = 1 / len(found)
        return [Weighed(each, equal, "") for each in found]
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
    return f"left out as clearly worse: it has {100 * share:.0f} % of the best judge's skill on unseen rows"
