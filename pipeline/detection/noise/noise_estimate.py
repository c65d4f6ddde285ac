"""The share of wrong labels, estimated from what contradicts train labels more often than validation labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST_CONTRAST = 0.05
"""Below this difference between wrong and right labels' contradiction rates there is no estimate."""

LEAST_CONTRAST_OF_TARGETS = 0.3
"""The same for numeric targets: residuals vary more from one set to another than errors of a classifier do."""
USUAL = 0.9
"""Share of the validation rows whose residual doesn't contradict the target (regression)."""


@dataclass(frozen=True)
class NoiseEstimate:
    """Estimated share of wrong labels in the train set, with a 95 % sampling interval."""

    value: float
    low: float
    high: float


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
