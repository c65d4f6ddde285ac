"""A regressor that wrong targets hardly influence: it is fitted without the rows that it contradicts out of fold."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.stats import median_abs_deviation
from sklearn.base import RegressorMixin, clone
from sklearn.model_selection import KFold, cross_val_predict

FOLDS = 3
MOST_DEVIATIONS = 3.0
"""Rows whose out-of-fold residual is further from the median, in robust standard deviations, are left out."""


class Trimmed:
    """A regressor without the rows that it contradicts. Otherwise wrong targets would pull the fit, and their
    neighbours would look wrong too.

    The regressor predicts its own training rows out of fold. Rows whose residual is more than MOST_DEVIATIONS robust
    standard deviations from the median are left out of the fit that judges other rows.

    Args:
        regressor: a scikit-learn regressor that is not fitted.
        seed: of the folds.
    """

    def __init__(self, regressor: RegressorMixin, seed: int):
        self._regressor, self._seed = regressor, seed

    def fit(self, matrix: Any, targets: np.ndarray) -> Self:
        """Fit on `matrix` `[rows, columns]` and `targets`, float `[rows]`; with fewer rows than folds all are kept."""
        kept = np.ones(len(targets), dtype=bool)
        if len(targets) >= FOLDS:
            folds = KFold(FOLDS, shuffle=True, random_state=self._seed)
            residuals = targets - cross_val_predict(clone(self._regressor), matrix, targets, cv=folds)
            scale = median_abs_deviation(residuals, scale="normal")
            if scale > 0:
                kept = np.abs(residuals - np.median(residuals)) <= MOST_DEVIATIONS * scale
        self._fitted = clone(self._regressor).fit(matrix[kept], targets[kept])
        return self

    def predict(self, matrix: Any) -> np.ndarray:
        """The predicted targets, float `[rows]`."""
        return self._fitted.predict(matrix)
