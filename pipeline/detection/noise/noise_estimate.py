"""Estimates the share of wrong labels: predictions contradict train labels more often than clean validation labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST_CONTRAST = 0.05
"""There is no estimate if the contradiction rates of wrong and right labels differ by less."""

LEAST_CONTRAST_OF_TARGETS = 0.3
"""The same for numeric targets: residuals vary more from one set to another than errors of a classifier do."""
USUAL = 0.9
"""For numeric targets: a residual above this quantile of the validation residuals contradicts its target."""


@dataclass(frozen=True)
class NoiseEstimate:
    """The estimated share of wrong labels, with a 95 % sampling interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, half: float) -> NoiseEstimate:
        """The estimate with an interval of `half` on both sides, within 0 … 1."""
        return cls(value, max(0.0, value - half), min(1.0, value + half))


def estimate_noise(
    contradicted: np.ndarray, contradicted_validation: np.ndarray, classes: int
) -> NoiseEstimate | None:
    """Estimate the share of wrong labels from the rates at which the halves contradict train and validation labels.

    Let d_oos and d_val be these rates, and d_w = max(½, 1 − d_val/(K−1)) the rate at which wrong labels are
    contradicted. The share is (d_oos − d_val) / (d_w − d_val). The estimate is blind to wrong labels that follow the
    model's own confusion, and too low if validation labels are wrong too.

    Args:
        contradicted: bool `[train rows]`, whether the out-of-sample prediction differs from the label.
        contradicted_validation: float `[validation rows]`, the share of halves whose prediction differs from the label.
            Each half predicts by itself, because the mean of both would err less.
        classes: K.

    Returns:
        None if d_w − d_val is below LEAST_CONTRAST.
    """
    of_wrong = max(0.5, 1 - float(contradicted_validation.mean()) / (classes - 1))
    return _share_of_wrong(contradicted, contradicted_validation, of_wrong)


def estimate_wrong_targets(
    residuals: np.ndarray, of_validation: np.ndarray, exchanged: np.ndarray
) -> NoiseEstimate | None:
    """Estimate the share of wrong targets as for labels; a residual above the USUAL quantile of validation contradicts.

    Args:
        residuals: out of sample, float64 `[train rows]`.
        of_validation: residuals of each half, float64 `[halves, validation rows]`.
        exchanged: residuals for targets of other rows, float64 `[train rows]`; they give the rate d_w of wrong targets.

    Returns:
        None if the exchanged residuals are hardly larger, because the model predicts too little.
    """
    usual = float(np.quantile(np.abs(of_validation), USUAL))
    of_wrong = float((np.abs(exchanged) > usual).mean())
    contradicted_validation = (np.abs(of_validation) > usual).mean(0)
    if of_wrong - contradicted_validation.mean() < LEAST_CONTRAST_OF_TARGETS:
        return None
    return _share_of_wrong(np.abs(residuals) > usual, contradicted_validation, of_wrong)


def _share_of_wrong(
    contradicted: np.ndarray, contradicted_validation: np.ndarray, of_wrong: float
) -> NoiseEstimate | None:
    """The share (d_oos − d_val) / (d_w − d_val) with its interval; `of_wrong` is d_w. None if it can't be estimated."""
    d_oos, d_val = float(contradicted.mean()), float(contradicted_validation.mean())
    contrast = of_wrong - d_val
    if contrast < LEAST_CONTRAST:
        return None
    value = max(0.0, (d_oos - d_val) / contrast)
    variance = d_oos * (1 - d_oos) / len(contradicted) + d_val * (1 - d_val) / len(contradicted_validation)
    half_width = 1.96 * math.sqrt(variance) / contrast
    return NoiseEstimate(min(value, 1.0), max(0.0, value - half_width), min(1.0, value + half_width))
