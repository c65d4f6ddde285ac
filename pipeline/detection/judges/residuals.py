"""The distance of numeric labels from their predictions, on a robust scale."""

from __future__ import annotations

import numpy as np

from pipeline.detection.removal_strata import TENTHS, prediction_strata

ROWS_PER_SCALE = 50


def robust_deviation(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The distance of each residual from the median, in robust standard deviations, by `usual_residuals`.

    Returns:
        float64 `[rows]`, at least 0.
    """
    return deviations(targets - predicted, *usual_residuals(targets, predicted))


def usual_residuals(targets: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What residual is usual for each row: the median and the robust standard deviation (1.4826 · MAD).

    Both come from rows with similar predictions (tenths of at least ROWS_PER_SCALE rows), because errors may grow with
    the target. The deviation is at least half of that of all rows.

    Returns:
        The median and the deviation, float64 `[rows]` each.
    """
    residuals = targets - predicted
    centre, scale = np.empty(len(residuals)), np.empty(len(residuals))
    least = _robust_scale(residuals - np.median(residuals)) / 2
    groups = prediction_strata(predicted, max(1, min(TENTHS, len(residuals) // ROWS_PER_SCALE)))
    for group in np.unique(groups):
        of_group = groups == group
        centre[of_group] = np.median(residuals[of_group])
        scale[of_group] = max(_robust_scale(residuals[of_group] - centre[of_group]), least)
    return centre, scale


def deviations(residuals: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """|residual − centre| / scale, float64 `[rows]`; 0 where the scale is 0."""
    distance = np.abs(residuals - centre)
    return np.divide(distance, scale, out=np.zeros(len(distance)), where=scale > 0)


def _robust_scale(centred: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(centred)))
