"""The distance of a row from the classes in the model's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.detection.columns import slices

KEPT = 0.75
"""The share of every class, its nearest rows, from which its mean and the covariance are computed."""
REFITS = 2
RIDGE = 0.01
"""This share of the mean variance is added to every variance, since features may be constant or linearly dependent."""
MOST_FITTED = 20000
"""The distance is fitted on at most so many rows."""
SLICE = 1024
FAR = 3.5
"""A row belongs to no class if its log distance exceeds the median by more robust standard deviations."""


@dataclass(frozen=True)
class ClassDistance:
    """The Mahalanobis distance to class means, with one covariance for all classes (Lee et al. 2018, arXiv 1807.03888).

    Attributes:
        whitening: float32 `[width, width]`.
        means: of the whitened features, float32 `[classes, width]`; NaN for a class without rows.
    """

    whitening: np.ndarray
    means: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The distances of features, float32 `[rows, width]`, to all classes, float32 `[rows, classes]`.

        The distance to a class without rows is infinite.
        """
        white = features @ self.whitening
        square = (white**2).sum(1)[:, None] - 2 * white @ self.means.T + (self.means**2).sum(1)
        return np.nan_to_num(np.sqrt(np.maximum(square, 0)), nan=np.inf)

    def own_and_nearest(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distance to the class of the row and to the nearest class, float32 `[rows]` each."""
        own, nearest = np.empty((2, len(features)), dtype=np.float32)
        for place in slices(len(features), SLICE):
            distances = self(features[place])
            own[place] = distances[np.arange(len(distances)), labels[place]]
            nearest[place] = distances.min(1)
        return own, nearest


def fit_class_distance(features: np.ndarray, labels: np.ndarray, classes: int) -> ClassDistance:
    """Fit means and covariance to the rows nearest to their class, repeatedly.

    Otherwise wrong labels and outliers would widen the covariance that is meant to expose them.

    Args:
        features: float32 `[rows, width]`.
        labels: int64 `[rows]`; all 0 for regression.
        classes: how many there are.
    """
    which = np.arange(0, len(labels), -(-len(labels) // MOST_FITTED))
    features, labels = features[which], labels[which]
    fitted = _fit_once(features, labels, classes)
    for _ in range(REFITS):
        own, _nearest = fitted.own_and_nearest(features, labels)
        near = _nearest_of_class(own, labels, classes)
        fitted = _fit_once(features[near], labels[near], classes)
    return fitted


def _nearest_of_class(own: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The nearest KEPT share of every class by distance, at least one row of each, bool `[rows]`."""
    counts = np.bincount(labels, minlength=classes)
    order = np.lexsort((own, labels))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = np.empty(len(order), dtype=bool)
    near[order] = rank < np.ceil(KEPT * counts)[labels[order]]
    return near


def _fit_once(features: np.ndarray, labels: np.ndarray, classes: int) -> ClassDistance:
    exact = features.astype(np.float64)
    counts = np.bincount(labels, minlength=classes)
    sums = np.zeros((classes, exact.shape[1]))
    np.add.at(sums, labels, exact)
    means = np.divide(sums, counts[:, None], out=np.full_like(sums, np.nan), where=counts[:, None] > 0)
    residuals = exact - means[labels]
    covariance = residuals.T @ residuals / max(1, len(labels))
    ridge = RIDGE * np.trace(covariance) / len(covariance) + 1e-12
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    whitening = vectors / np.sqrt(values)
    return ClassDistance(whitening.astype(np.float32), (means @ whitening).astype(np.float32))


def belongs_nowhere(nearest: np.ndarray) -> np.ndarray:
    """Rows whose nearest class is far, on a robust scale (median and 1.4826 · MAD) of log distances, bool `[rows]`."""
    logarithm = np.log(np.maximum(nearest, 1e-6))
    deviation = logarithm - np.median(logarithm)
    scale = 1.4826 * np.median(np.abs(deviation))
    return deviation > FAR * max(float(scale), 1e-6)
