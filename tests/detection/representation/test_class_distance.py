from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.detection.representation.class_distance import belongs_nowhere, fit_class_distance


def blobs(rows: int = 1200, classes: int = 3, width: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of correlated Gaussian classes, labels, and the covariance."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(width, width)) + 2 * np.eye(width)
    labels = np.arange(rows) % classes
    centres = 10 * rng.normal(size=(classes, width))
    return (
        (centres[labels] + rng.normal(size=(rows, width)) @ root.T).astype(np.float32),
        labels,
        root @ root.T,
    )


def test_distances_order_as_mahalanobis_distances_with_the_true_covariance() -> None:
    features, labels, covariance = blobs()
    distance = fit_class_distance(features, labels, 3)
    own, nearest = distance.own_and_nearest(features, labels)
    for label in range(3):
        mine = features[labels == label]
        centred = mine - mine.mean(0)
        exact = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred))
        assert np.corrcoef(exact, own[labels == label])[0, 1] > 0.95
    assert (nearest <= own + 1e-5).all()


def test_wrong_labels_lie_far_from_the_class_they_are_given_and_near_another() -> None:
    features, labels, _ = blobs()
    wrong = np.random.default_rng(1).random(len(labels)) < 0.15
    given = np.where(wrong, (labels + 1) % 3, labels)
    own, nearest = fit_class_distance(features, given, 3).own_and_nearest(features, given)
    assert roc_auc_score(wrong, own) > 0.99
    assert abs(roc_auc_score(wrong, nearest) - 0.5) < 0.1


def test_strange_rows_belong_nowhere_even_when_they_are_a_tenth() -> None:
    """Were mean and covariance not robust, so many strange rows would hide themselves."""
    features, labels, _ = blobs()
    strange = np.random.default_rng(2).permutation(len(labels))[:120]
    features[strange] += np.float32(60) * np.random.default_rng(3).choice([-1, 1], (120, 6)).astype(
        np.float32
    )
    _, nearest = fit_class_distance(features, labels, 3).own_and_nearest(features, labels)
    nowhere = belongs_nowhere(nearest)
    assert nowhere[strange].mean() > 0.9
    assert np.delete(nowhere, strange).sum() <= 3


def test_a_constant_feature_and_a_class_without_rows_do_no_harm() -> None:
    features, labels, _ = blobs()
    features = np.hstack([features, np.zeros((len(features), 2), np.float32)])
    distances = fit_class_distance(features, labels, 4)(features)
    assert np.isfinite(distances[:, :3]).all()
    assert np.isinf(distances[:, 3]).all()


@pytest.mark.parametrize("rows", [2, 5])
def test_a_handful_of_rows_gives_distances(rows: int) -> None:
    features = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    own, _ = fit_class_distance(features, np.zeros(rows, dtype=np.int64), 1).own_and_nearest(
        features, np.zeros(rows, dtype=np.int64)
    )
    assert np.isfinite(own).all()
