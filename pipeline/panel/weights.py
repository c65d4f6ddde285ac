"""How much each judge counts: by how well it predicts the given labels of rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SKILL = 0.6
"""Share of the best judge's skill below which a judge is clearly worse."""
SHARPNESS = 4.0
"""Power of the relative skill that a judge's weight is proportional to."""


@dataclass(frozen=True)
class Measured:
    """A judge out of fold on the judged train rows, calibrated at `temperature`.

    error: mean squared error of the probabilities (in regression: mean absolute error of the targets), which the
    weights follow. log_loss: nats, None in regression; accuracy: None in regression.
    """

    judge: str
    temperature: float
    error: float
    log_loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Weighed:
    """weight: share of the mean, 0 with the reason in words."""

    measured: Measured
    weight: float
    why: str


def weigh(found: Sequence[Measured], baseline: float) -> list[Weighed]:
    """Weights that add up to 1.

    The skill of a judge is what it takes off `baseline`, the error of the bare class shares. Its weight goes with the
    fourth power of its skill relative to the best judge's, and is 0 below LEAST_SKILL of that. Squared errors are
    taken and not log losses: labels that are wrong by a pattern reward a judge that has learnt the pattern, and log
    losses reward it most.
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
