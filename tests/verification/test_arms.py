from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.worker import run_data
from pipeline.training.main_run import role_labels
from pipeline.verification.arms import (
    Decisions,
    arm_rows,
    arm_selection,
    random_removal,
    read_decisions,
)

from .small_run import digits_config, open_context, planted, write_rows


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 10**6))
def test_random_removal_takes_as_many_rows_of_every_class(rows: int, classes: int, seed: int) -> None:
    random = np.random.RandomState(seed)
    labels, removed = random.randint(0, classes, rows), random.random_sample(rows) < 0.3
    kept = random_removal(labels, removed, seed)
    for label in range(classes):
        assert (~kept & (labels == label)).sum() == (removed & (labels == label)).sum()


def test_random_removal_takes_every_row_of_a_class_equally_often() -> None:
    labels = np.repeat([0, 1, 2], [10, 6, 4])
    removed = np.zeros(20, dtype=bool)
    removed[[0, 1, 2, 10, 11]] = True
    taken = sum(~random_removal(labels, removed, seed) for seed in range(3000)) / 3000
    expected = np.repeat([3 / 10, 2 / 6, 0], [10, 6, 4])
    assert np.abs(taken - expected).max() < 5 * np.sqrt(0.25 / 3000)


def test_random_removal_is_not_what_others_draw_with_the_same_seed() -> None:
    """Noise that a benchmark planted with a bare seed must not come back as the control."""
    rows = np.arange(1000)
    drawn = np.random.RandomState(1).permutation(1000)[:100]
    removed = np.isin(rows, drawn)
    assert (~random_removal(np.zeros(1000, dtype=np.int64), removed, 1) & removed).sum() < 30


def test_random_removal_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    labels, removed = np.zeros(50, dtype=np.int64), np.arange(50) < 10
    assert np.array_equal(random_removal(labels, removed, 3), random_removal(labels, removed, 3))
    assert not np.array_equal(random_removal(labels, removed, 3), random_removal(labels, removed, 4))


def decisions() -> Decisions:
    """Row 1 is removed, row 2 too but has a suggestion, row 3 is relabelled, row 4 kept with a suggestion."""
    return Decisions(
        removed=np.array([False, True, True, False, False]),
        relabelled=np.array([False, False, False, True, False]),
        has_suggestion=np.array([False, False, True, True, True]),
        given=torch.tensor([0, 1, 0, 1, 0]),
        suggested=torch.tensor([0, 1, 2, 2, 2]),
        strata=np.array([0, 1, 0, 1, 0]),
    )


def test_arms_keep_and_label_the_rows_that_they_are_named_after() -> None:
    assert arm_rows(decisions(), "as_given", 0) == (None, None)
    kept, labels = arm_rows(decisions(), "cleaned", 0)
    assert kept is not None
    assert labels is not None
    assert kept.tolist() == [True, False, False, True, True]
    assert labels[torch.from_numpy(kept)].tolist() == [0, 2, 0]
    kept, labels = arm_rows(decisions(), "relabelled", 0)
    assert kept is not None
    assert labels is not None
    assert kept.tolist() == [True, False, True, True, True]
    assert labels[torch.from_numpy(kept)].tolist() == [0, 2, 2, 0]
    kept, labels = arm_rows(decisions(), "random_removal", 0)
    assert kept is not None
    assert labels is None
    assert kept.sum() == 3


def test_decisions_are_read_in_the_order_of_the_encoded_rows(tmp_path: Path) -> None:
    context = open_context(tmp_path, digits_config())
    wrong, true = planted(1200)
    suggestions = pa.array([label if bad else None for label, bad in zip(true, wrong)], pa.int64())
    write_rows(tmp_path, np.where(wrong, "relabel", "keep").tolist(), suggestions)
    found = read_decisions(context.run.path)
    assert np.array_equal(found.relabelled, wrong)
    assert found.suggested.tolist() == true
    assert torch.equal(found.given, role_labels(run_data(tmp_path), "train"))
    assert found.given.tolist() != true


def test_class_weights_of_an_arm_are_those_of_all_rows(tmp_path: Path) -> None:
    open_context(tmp_path, digits_config(**{"training.class_weights": "balanced"}))
    write_rows(tmp_path, ["remove"] * 100 + ["keep"] * 1100, pa.nulls(1200, pa.int64()))
    counts = torch.bincount(role_labels(run_data(tmp_path), "train"))
    weights = arm_selection(tmp_path, "cleaned", 0).class_weights
    assert weights is not None
    assert torch.allclose(weights, 1200 / (10 * counts))
