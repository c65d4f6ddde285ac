"""How far a row lies from the classes, in the model's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.detection.columns import slices

KEPT = 0.75
"""Share of every class that its mean and the covariance are made of: the rows that lie nearest."""
REFITS = 2
RIDGE = 0.01
"""Of the mean variance, added to every variance: features may be constant or depend on each other."""
MOST_FITTED = 20000
"""Rows that the distance is fitted on."""
SLICE = 1024
FAR = 3.5
"""Robust standard deviations, of the logarithm of the distance, beyond which a row belongs to no class."""


@dataclass(frozen=True)
class ClassDistance:
    """Mahalanobis distance to the means of classes, with one covariance for all (Lee et al. 2018, arXiv 1807.03888).

    whitening: float32 `[width, width]`; means: whitened, float32 `[classes, width]`, NaN for a class without rows.
    """

    whitening: np.ndarray
    means: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """float32 `[rows, classes]` for float32 `[rows, width]`; infinite to a class without rows."""
        white = features @ self.whitening
        square = (white**2).sum(1)[:, None] - 2 * white @ self.means.T + (self.means**2).sum(1)
        return np.nan_to_num(np.sqrt(np.maximum(square, 0)), nan=np.inf)

    def own_and_nearest(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 `[rows]` each: the distance to the row's class, and to whichever class is nearest."""
        own, nearest = np.empty((2, len(features)), dtype=np.float32)
        for place in slices(len(features), SLICE):
            distances = self(features[place])
            own[place] = distances[np.arange(len(distances)), labels[place]]
            nearest[place] = distances.min(1)
        return own, nearest


def fit_class_distance(features: np.ndarray, labels: np.ndarray, classes: int) -> ClassDistance:
    """Means and covariance of the rows that lie nearest to their class, found by fitting repeatedly.

    features: float32 `[rows, width]`; labels: int64 `[rows]`, all 0 in regression. Wrong labels and strange rows would
    else widen the covariance that is to expose them.
    """
    which = np.arange(0, len(labels), -(-len(labels) // MOST_FITTED))
    features, labels = features[which], labels[which]
    fitted = fit_once(features, labels, classes)
    for _ in range(REFITS):
        own, _nearest = fitted.own_and_nearest(features, labels)
        near = nearest_of_class(own, labels, classes)
        fitted = fit_once(features[near], labels[near], classes)
    return fitted


def nearest_of_class(own: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """bool `[rows]`: among the first KEPT of its class by distance, at least one row each."""
    counts = np.bincount(labels, minlength=classes)
    order = np.lexsort((own, labels))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = np.empty(len(order), dtype=bool)
    near[order] = rank < np.ceil(KEPT * counts)[labels[order]]
    return near


def fit_once(features: np.ndarray, labels: np.ndarray, classes: int) -> ClassDistance:
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
    """bool `[rows]`: even the nearest class is far, on a robust scale (median and 1.4826 · MAD) of log distances."""
    logarithm = np.log(np.maximum(nearest, 1e-6))
    deviation = logarithm - np.median(logarithm)
    scale = 1.4826 * np.median(np.abs(deviation))
    return deviation > FAR * max(float(scale), 1e-6)
