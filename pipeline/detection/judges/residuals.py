"""How far numeric labels are from what is predicted of them, on a robust scale."""

from __future__ import annotations

import numpy as np

from pipeline.detection.removal_strata import TENTHS, prediction_strata

ROWS_PER_SCALE = 50


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
