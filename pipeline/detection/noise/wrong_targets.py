"""Estimates the share of wrong numeric targets of one noisy file from the judges' residuals alone.

Let z be the deviation of a target from its prediction in units that are usual for such a prediction, and z' the
deviation that the row would have with the target of another row. If a share π of the targets are those of other rows,

    P(z > t) / P(z' > t) = π + (1 − π) · P(z > t | right) / P(z' > t),

and the last fraction goes to 0 as t grows, because residuals of right targets are small where judges predict well. So
the estimate is the lowest mean of the ratio over neighbouring thresholds. Wrong targets that are nearer to the right
ones than another row's target, as a constant shift may be, are not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.detection.judges.residuals import deviations, usual_residuals
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.wrong_share import DRAWS, NORMAL
from pipeline.seeds import random_state

LEAST_EXPLAINED = 0.75
"""Robust R² of the judges. Below it, residuals of right targets reach as far as those of wrong ones."""
FEWEST_ROWS = 100
QUANTILES = np.linspace(0.1, 0.9, 33)
"""Of z', the thresholds; beyond the last one too few rows are left."""
NEIGHBOURS = 8
"""Thresholds whose ratios are averaged, so that the lowest mean is no accident of single rows."""
EXCHANGES = 10
"""How often all targets are exchanged for the distribution of z'."""


def estimate_exchanged_targets(
    targets: np.ndarray, predictions: Sequence[np.ndarray], explains: float, seed: int
) -> NoiseEstimate | None:
    """Estimate the share of wrong targets.

    The interval adds in squares the variation over resampled rows and the variation between single judges.

    Args:
        targets: the given targets, float64 `[rows]`.
        predictions: out of sample, `[rows]` each: of the judges together, then of single judges.
        explains: robust R² of the judges together.
        seed: of the exchanges and of the resampling.

    Returns:
        None if the judges explain less than LEAST_EXPLAINED, or for fewer than FEWEST_ROWS rows.
    """
    if explains < LEAST_EXPLAINED or len(targets) < FEWEST_ROWS:
        return None
    random = random_state("exchanged targets", seed)
    together, *single = predictions
    value = _lowest_ratio(targets, together, random)
    drawn = (random.randint(len(targets), size=len(targets)) for _ in range(DRAWS))
    sampling = np.std([_lowest_ratio(targets[rows], together[rows], random) for rows in drawn], ddof=1)
    alone = [_lowest_ratio(targets, each, random) for each in single]
    between = np.std(alone, ddof=1) if len(alone) > 1 else 0.0
    half = NORMAL * float(np.hypot(sampling, between))
    return NoiseEstimate.around(value, half)


def rarity_among_exchanged(targets: np.ndarray, predicted: np.ndarray, seed: int) -> np.ndarray:
    """P(z' > z) for each row's own z: how many targets of other rows are farther off; float64 `[rows]`."""
    own, exchanged = _own_and_exchanged(targets, predicted, random_state("rarity of targets", seed))
    return 1 - np.searchsorted(np.sort(exchanged), own, side="right") / len(exchanged)


def _own_and_exchanged(
    targets: np.ndarray, predicted: np.ndarray, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """z, float64 `[rows]`, and draws of z', float64 `[EXCHANGES · rows]`."""
    centre, scale = usual_residuals(targets, predicted)
    exchanged = [
        deviations(targets[random.permutation(len(targets))] - predicted, centre, scale)
        for _ in range(EXCHANGES)
    ]
    return deviations(targets - predicted, centre, scale), np.concatenate(exchanged)


def _lowest_ratio(targets: np.ndarray, predicted: np.ndarray, random: np.random.RandomState) -> float:
    """The lowest mean of P(z > t) / P(z' > t) over NEIGHBOURS thresholds."""
    own, exchanged = _own_and_exchanged(targets, predicted, random)
    thresholds = np.quantile(exchanged, QUANTILES)
    beyond = 1 - np.searchsorted(np.sort(own), thresholds, side="right") / len(own)
    ratios = beyond / (1 - QUANTILES)
    return float(min(1.0, np.convolve(ratios, np.full(NEIGHBOURS, 1 / NEIGHBOURS), "valid").min()))
