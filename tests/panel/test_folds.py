"""Folds and samples: copies together, strata spread, small strata kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.panel.folds import KEPT_OF_A_STRATUM, assign_folds, draw_sample, rare_classes
from pipeline.tasks.multilabel import MULTILABEL
from pipeline.tasks.regression import REGRESSION


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60), st.integers(2, 6))
def test_copies_are_in_one_fold(rows: list[tuple[int, int]], folds: int) -> None:
    features, strata = np.array(rows).T
    found = assign_folds(features, strata, folds, 0)
    assert ((found >= 0) & (found < folds)).all()
    for value in np.unique(features):
        assert len(set(found[features == value].tolist())) == 1


def test_every_class_is_spread_evenly() -> None:
    strata = np.repeat([0, 1, 2], [7, 100, 33])
    found = assign_folds(np.random.RandomState(0).permutation(140), strata, 5, 0)
    for stratum in range(3):
        counts = np.bincount(found[strata == stratum], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_folds_depend_on_seed_and_repeat_and_on_no_order_of_rows() -> None:
    features, strata = np.arange(200), np.arange(200) % 3
    found = assign_folds(features, strata, 5, 0)
    order = np.random.RandomState(1).permutation(200)
    np.testing.assert_array_equal(assign_folds(features[order], strata[order], 5, 0), found[order])
    assert (assign_folds(features, strata, 5, 1) != found).any()
    assert (assign_folds(features, strata, 5, 0, repeat=1) != found).any()


def test_a_sample_keeps_small_classes_and_its_size() -> None:
    strata = np.repeat([0, 1], [5000, 20])
    sample = draw_sample(strata, 500, 0)
    assert len(sample) == len(set(sample.tolist())) == 500
    assert (np.diff(sample) > 0).all()
    assert (strata[sample] == 1).sum() == 20 < KEPT_OF_A_STRATUM
    np.testing.assert_array_equal(draw_sample(strata, 6000, 0), np.arange(5020))


def test_strata_of_targets_and_sets() -> None:
    counts = np.bincount(REGRESSION.strata(np.random.RandomState(0).normal(size=1000)))
    assert len(counts) == 10
    assert counts.min() > 90
    sets = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    assert MULTILABEL.strata(sets).tolist() == [0, 1, 2, 0]


def test_classes_with_fewer_rows_than_folds_are_rare() -> None:
    labels = np.repeat([0, 1, 2], [10, 4, 5])
    assert rare_classes(labels, "classification", 3, 5).tolist() == [1]
    assert rare_classes(labels.astype(float), "regression", 1, 5).tolist() == []
