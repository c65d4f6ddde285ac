"""How many rows to flag: the number of wrong labels, estimated from what contradicts them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.detection.removal_strata import TENTHS, prediction_strata

LEAST_CONTRAST = 0.05
"""Below this difference between wrong and right labels' contradiction rates there is no estimate."""

LEAST_CONTRAST_OF_TARGETS = 0.3
"""The same for numeric targets: residuals vary more from one set to another than errors of a classifier do."""
USUAL = 0.9
"""Share of the validation rows whose residual doesn't contradict the target (regression)."""

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
    of_wrong = max(0.5, 1 - float(contradicted_validation.mean()) / (classes - 1))
    return share_of_wrong(contradicted, contradicted_validation, of_wrong)


def estimate_wrong_targets(
    residuals: np.ndarray, of_validation: np.ndarray, exchanged: np.ndarray
) -> NoiseEstimate | None:
    """The share of wrong targets: as for labels, where a residual contradicts that is above most of validation's.

    residuals: float64 `[rows]`, out of sample; of_validation: float64 `[halves, validation rows]`, each half's;
    exchanged: float64 `[rows]`, those of other rows' targets, from which the rate d_w of wrong ones is taken. None
    where these are hardly larger: the model predicts too little.
    """
    usual = float(np.quantile(np.abs(of_validation), USUAL))
    of_wrong = float((np.abs(exchanged) > usual).mean())
    contradicted_validation = (np.abs(of_validation) > usual).mean(0)
    if of_wrong - contradicted_validation.mean() < LEAST_CONTRAST_OF_TARGETS:
        return None
    return share_of_wrong(np.abs(residuals) > usual, contradicted_validation, of_wrong)


def share_of_wrong(
    contradicted: np.ndarray, contradicted_validation: np.ndarray, of_wrong: float
) -> NoiseEstimate | None:
    """(d_oos − d_val) / (d_w − d_val); `of_wrong` is d_w."""
    d_oos, d_val = float(contradicted.mean()), float(contradicted_validation.mean())
    contrast = of_wrong - d_val
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


def count_regression(deviation: np.ndarray, noise: NoiseEstimate | None) -> Counts:
    """Likely wrong are as many as the estimate's interval begins with, to be looked at as many as estimated.

    Residuals have no such clear threshold as labels, so few validation rows make the estimate vary much. Rows that are
    far out on a robust scale count in any case. deviation: float64 `[rows]`, from `robust_deviation`.
    """
    low, value = (0.0, 0.0) if noise is None else (noise.low, noise.value)
    likely_wrong = max(round(low * len(deviation)), int((deviation > WRONG_TARGET).sum()))
    review = max(round(value * len(deviation)), int((deviation > DOUBTFUL_TARGET).sum()))
    return Counts(likely_wrong, max(likely_wrong, review))


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
