"""A regressor that wrong targets hardly move: it is fitted again without the rows that it contradicts itself."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.stats import median_abs_deviation
from sklearn.base import RegressorMixin, clone
from sklearn.model_selection import KFold, cross_val_predict

FOLDS = 3
MOST_DEVIATIONS = 3.0
"""Robust standard deviations of a residual, out of fold, above which a row is left out."""


class Trimmed:
    """Least squares follows wrong targets, and then the rows beside them look wrong too.

    The regressor predicts its own training rows out of fold. Rows whose residual is more than MOST_DEVIATIONS robust
    standard deviations from the median are left out of the fit that judges other rows.

    Args:
        regressor: a scikit-learn regressor that is not fitted.
        seed: of the folds.
    """

    def __init__(self, regressor: RegressorMixin, seed: int):
        self._regressor, self._seed = regressor, seed

    def fit(self, matrix: Any, targets: np.ndarray) -> Self:
        """matrix: `[rows, columns]`; targets: float `[rows]`. With fewer rows than folds, all rows are kept."""
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
        """float `[rows]`."""
        return self._fitted.predict(matrix)
