from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.main_run import role_labels
from pipeline.verification.arms import (
    Decisions,
    arm_rows,
    arm_selection,
    distinct_arms,
    random_removal,
    read_decisions,
)
from pipeline.workers.kept import drop_kept
from pipeline.workers.worker import run_data

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


def decisions(**changes: Any) -> Decisions:
    """Row 1 is removed, row 2 too but has a suggestion, row 3 is relabelled, row 4 kept with a suggestion."""
    fields: dict[str, Any] = {
        "removed": np.array([False, True, True, False, False, False]),
        "relabelled": np.array([False, False, False, True, False, False]),
        "has_suggestion": np.array([False, False, True, True, True, False]),
        "by_person": np.zeros(6, dtype=bool),
        "given": torch.tensor([0, 1, 0, 1, 0, 1]),
        "suggested": torch.tensor([0, 1, 2, 2, 2, 1]),
        "judged": torch.tensor([1, 1, 1, 1, 1, 0]),
        "strata": np.array([0, 1, 0, 1, 0, 1]),
    }
    return Decisions(**fields | changes)


def selected(found: Decisions, arm: str, seed: int = 0) -> tuple[list[bool], list[int]]:
    kept, labels = arm_rows(found, arm, seed)
    assert kept is not None
    given = found.given if labels is None else labels
    return kept.tolist(), given[torch.from_numpy(kept)].tolist()


def test_arms_keep_and_label_the_rows_that_they_are_named_after() -> None:
    assert arm_rows(decisions(), "as_given", 0) == (None, None)
    assert selected(decisions(), "removed") == ([True, False, False, False, True, True], [0, 0, 1])
    assert selected(decisions(), "relabelled") == ([True, False, True, True, True, True], [0, 2, 2, 0, 1])
    assert selected(decisions(), "mixed") == ([True, False, False, True, True, True], [0, 2, 0, 1])


def test_what_a_person_decided_stands_in_every_arm_but_as_given() -> None:
    person = np.array([False, False, True, True, False, False])
    found = decisions(by_person=person)
    for arm in ("removed", "relabelled", "mixed"):  # row 2 goes and row 3 is relabelled, in all three
        assert selected(found, arm) == ([True, False, False, True, True, True], [0, 2, 0, 1])
    assert arm_rows(found, "as_given", 0) == (None, None)
    assert distinct_arms(found, ["removed", "relabelled", "mixed"]) == ["removed"]


@pytest.mark.parametrize("arm", ["removed", "relabelled", "mixed"])
def test_a_control_has_its_arms_size_and_relabels_rows_that_nobody_flagged_as_the_judges_say(
    arm: str,
) -> None:
    random = np.random.RandomState(0)
    given = random.randint(0, 3, 400)
    removed = random.random_sample(400) < 0.1
    found = decisions(
        removed=removed,
        relabelled=~removed & (random.random_sample(400) < 0.1),
        has_suggestion=random.random_sample(400) < 0.7,
        by_person=np.zeros(400, dtype=bool),
        given=torch.from_numpy(given),
        suggested=torch.from_numpy((given + 1) % 3),
        judged=torch.from_numpy((given + 2) % 3),
        strata=given,
    )
    gone, changed = found.masks(arm)
    kept, labels = arm_rows(found, f"random_of_{arm}", 1)
    assert kept is not None
    relabelled = np.zeros(400, dtype=bool) if labels is None else (labels != found.given).numpy()
    assert not (relabelled & ~kept).any()
    assert not (relabelled & found.flagged).any()
    for label in range(3):
        assert (~kept & (given == label)).sum() == (gone & (given == label)).sum()
        assert (relabelled & (given == label)).sum() == (changed & (given == label)).sum()
    if labels is not None:
        assert np.array_equal(labels.numpy()[relabelled], (given[relabelled] + 2) % 3)
    again, other = arm_rows(found, f"random_of_{arm}", 1)[0], arm_rows(found, f"random_of_{arm}", 2)[0]
    assert np.array_equal(kept, again)
    assert arm == "relabelled" or not np.array_equal(kept, other)


def test_arms_that_coincide_are_trained_once() -> None:
    arms = ["removed", "relabelled", "mixed"]
    assert distinct_arms(decisions(), arms) == arms
    nothing = np.zeros(6, dtype=bool)
    assert distinct_arms(decisions(relabelled=nothing, has_suggestion=nothing), arms) == ["removed"]
    assert distinct_arms(decisions(removed=nothing), arms) == ["removed", "relabelled"]
    assert distinct_arms(decisions(removed=nothing, relabelled=nothing), arms) == []
    assert distinct_arms(decisions(removed=~nothing, relabelled=nothing, has_suggestion=nothing), arms) == []


def test_the_proposal_of_train_rows_is_read_past_what_the_gate_left_and_past_other_roles(
    tmp_path: Path,
) -> None:
    open_context(tmp_path, digits_config())
    decision = ["review", "relabel", "remove", *["keep"] * 1197, "remove"]
    columns = {
        "decision": decision,
        "proposed": pa.array(["remove", *[None] * 1200], pa.string()),
        "decided_by": pa.array(["rule", "person", "rule", *[None] * 1197, "rule"], pa.string()),
        "suggested_label": pa.array([None, 3, 5, *[None] * 1198], pa.int64()),
        "new_label": pa.array([None, 7, *[None] * 1199], pa.int64()),
        "predicted_label": pa.array([4] * 1201, pa.int64()),
        "split": ["train"] * 1200 + ["holdout"],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    found = read_decisions(tmp_path)
    assert np.flatnonzero(found.removed).tolist() == [0, 2]
    assert np.flatnonzero(found.relabelled).tolist() == np.flatnonzero(found.by_person).tolist() == [1]
    assert found.suggested[[1, 2]].tolist() == [7, 5]
    assert len(found.given) == 1200
    assert set(found.judged.tolist()) == {4}
    opinions = np.zeros((1200, 10), dtype=np.float32)
    opinions[:, 6] = 1
    (tmp_path / "panel" / "mean").mkdir(parents=True)
    np.save(tmp_path / "panel/mean/train.npy", opinions)
    drop_kept()
    assert set(read_decisions(tmp_path).judged.tolist()) == {6}


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
    weights = arm_selection(tmp_path, "removed", 0).class_weights
    assert weights is not None
    assert torch.allclose(weights, 1200 / (10 * counts))
