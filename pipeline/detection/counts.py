"""How many rows to flag: the number of wrong labels, estimated from what contradicts them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST_CONTRAST = 0.05
"""Below this difference between wrong and right labels' contradiction rates there is no estimate."""

WRONG_TARGET = 5.0
DOUBTFUL_TARGET = 3.5
"""Robust standard deviations of the out-of-sample residual (regression)."""


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

    contradicted, contradicted_validation: bool `[rows]`, an out-of-sample prediction differs from the label.
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
    """The larger of the estimate and the contradictions, for both numbers."""
    estimated = 0 if noise is None else round(noise.value * rows)
    likely_wrong = max(estimated, contradictions.likely_wrong)
    return Counts(likely_wrong, max(estimated, contradictions.review, likely_wrong))


def count_regression(residuals: np.ndarray) -> Counts:
    """Rows whose out-of-sample residual is far out on a robust scale (median and 1.4826 · MAD)."""
    deviation = np.abs(residuals - np.median(residuals))
    scale = 1.4826 * np.median(deviation)
    if scale == 0:
        return Counts(0, 0)
    return Counts(
        int((deviation > WRONG_TARGET * scale).sum()), int((deviation > DOUBTFUL_TARGET * scale).sum())
    )
