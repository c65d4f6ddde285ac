"""The distance of numeric labels from their predictions, on a robust scale."""

from __future__ import annotations

import numpy as np

from pipeline.detection.removal_strata import TENTHS, prediction_strata

ROWS_PER_SCALE = 50


def robust_deviation(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The distance of each residual from the median, in robust standard deviations (1.4826 · MAD).

    Median and scale come from rows with similar predictions (tenths of at least ROWS_PER_SCALE rows), because errors
    may grow with the target. The scale is at least half of that of all rows. If the scale is 0, the distance is 0.

    Returns:
        float64 `[rows]`, at least 0.
    """
    residuals = targets - predicted
    deviation = np.empty(len(residuals))
    least = _robust_scale(residuals - np.median(residuals)) / 2
    groups = prediction_strata(predicted, max(1, min(TENTHS, len(residuals) // ROWS_PER_SCALE)))
    for group in np.unique(groups):
        of_group = groups == group
        centred = residuals[of_group] - np.median(residuals[of_group])
        scale = max(_robust_scale(centred), least)
        deviation[of_group] = np.abs(centred) / scale if scale > 0 else 0.0
    return deviation


def _robust_scale(centred: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(centred)))
