"""How many rows to flag: the number of wrong labels, estimated from what contradicts them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.detection.strata import TENTHS, prediction_strata

LEAST_CONTRAST = 0.05
"""Below this difference between wrong and right labels' contradiction rates there is no estimate."""

WRONG_TARGET = 5.0
DOUBTFUL_TARGET = 3.5
"""Robust standard deviations of the out-of-sample residual (regression)."""

ROWS_PER_SCALE = 50


@dataclass(frozen=True)
class NoiseEstimate:
    """Estimated share of wrong labels in the train set, with a 95 % sampling interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """The most suspicious `likely_wrong` rows are to be removed, up to `review` to be looked at."""

    likely_wrong: int
    review: int


def estimate_noise(
    contradicted: np.ndarray, contradicted_validation: np.ndarray, classes: int
) -> NoiseEstimate | None:
    """The share of wrong labels by the halves' disagreement, over what they disagree with on validation.

    contradicted: bool `[rows]`, an out-of-sample prediction differs from the label; contradicted_validation: float
    `[rows]`, the share of the halves whose prediction does, each half by itself: their mean would err less.
    With d_oos and d_val their means and d_w = max(½, 1 − d_val/(K−1)) the rate at which wrong labels are
    contradicted, the share is (d_oos − d_val) / (d_w − d_val). None when d_w − d_val < .05. Blind where wrong labels
    follow the model's own confusion; low where the validation labels are wrong too.
    """
    d_oos, d_val = float(contradicted.mean()), float(contradicted_validation.mean())
    contrast = max(0.5, 1 - d_val / (classes - 1)) - d_val
    if contrast < LEAST_CONTRAST:
        return None
    value = max(0.0, (d_oos - d_val) / contrast)
    variance = d_oos * (1 - d_oos) / len(contradicted) + d_val * (1 - d_val) / len(contradicted_validation)
    half_width = 1.96 * math.sqrt(variance) / contrast
    return NoiseEstimate(min(value, 1.0), max(0.0, value - half_width), min(1.0, value + half_width))


def count_contradictions(
    evidence: list[np.ndarray], harm: np.ndarray | None, other_is_probable: np.ndarray
) -> Counts:
    """Rows that all the evidence contradicts (bool `[rows]` each), and of these the surer ones.

    Surer are those with positive harm to a clean validation set; without one, those for which another label has
    more than half of the probability.
    """
    all_of = np.logical_and.reduce(evidence)
    surer = all_of & (other_is_probable if harm is None else harm > 0)
    return Counts(int(surer.sum()), int(all_of.sum()))


def count_classification(contradictions: Counts, noise: NoiseEstimate | None, rows: int) -> Counts:
    """As many are likely wrong as estimated, or as the surer contradictions where there is no estimate.

    To be looked at are all contradictions too: they also find wrong labels that the estimate is blind to.
    """
    likely_wrong = contradictions.likely_wrong if noise is None else round(noise.value * rows)
    return Counts(likely_wrong, max(contradictions.review, contradictions.likely_wrong, likely_wrong))


def count_regression(deviation: np.ndarray, excess: int = 0) -> Counts:
    """Rows that are far out on a robust scale, or the excess of large residuals where that is more.

    deviation: float64 `[rows]`, from `robust_deviation`; excess: from `excess_residuals`.
    """
    likely_wrong = max(excess, int((deviation > WRONG_TARGET).sum()))
    return Counts(likely_wrong, max(likely_wrong, int((deviation > DOUBTFUL_TARGET).sum())))


def excess_residuals(residuals: np.ndarray, of_validation: np.ndarray) -> int:
    """How many train rows have larger residuals than validation rows explain, at the size where most do.

    residuals: float64 `[rows]` out of sample; of_validation: float64 `[halves, validation rows]`, each half's. If a
    share π of the targets is wrong, the largest difference of the two distributions of |residual| is at most π, so
    this is a lower bound but for chance; what chance alone gives in the mean, √(π/8 · (1/n + 1/m)) for the one-sided
    two-sample statistic of Kolmogorov and Smirnov, is taken off.
    """
    sizes, expected = np.sort(np.abs(residuals)), np.sort(np.abs(of_validation), axis=None)
    rows, validation_rows = len(sizes), of_validation.shape[-1]
    above = 1 - np.arange(1, rows + 1) / rows
    above_expected = 1 - np.searchsorted(expected, sizes, side="right") / len(expected)
    by_chance = math.sqrt(math.pi / 8 * (1 / rows + 1 / validation_rows))
    return max(0, round(rows * (float((above - above_expected).max()) - by_chance)))


def robust_deviation(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Residuals in robust standard deviations (1.4826 · MAD) from their median, float64 `[rows]`, not negative.

    Median and scale are those of rows with similar predictions (tenths, of at least ROWS_PER_SCALE rows), since
    errors may be larger where targets are; the scale is never below half of that of all rows. 0 where it is 0.
    """
    residuals = targets - predicted
    deviation = np.empty(len(residuals))
    least = robust_scale(residuals - np.median(residuals)) / 2
    groups = prediction_strata(predicted, max(1, min(TENTHS, len(residuals) // ROWS_PER_SCALE)))
    for group in np.unique(groups):
        of_group = groups == group
        centred = residuals[of_group] - np.median(residuals[of_group])
        scale = max(robust_scale(centred), least)
        deviation[of_group] = np.abs(centred) / scale if scale > 0 else 0.0
    return deviation


def robust_scale(centred: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(centred)))
