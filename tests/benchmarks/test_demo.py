"""The demo's last line, against a small truth that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.demo import planted, truth_line
from pipeline.errors import InputError


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.parquet"
    pq.write_table(pa.table({"index": [14, 17, 18, 30], "is_wrong": [False, True, False, True]}), path)
    return path


def rows(suspicion: list[float], decision: list[str]) -> pa.Table:
    return pa.table({"suspicion": suspicion, "decision": decision})


def test_truth_is_joined_by_key_whatever_the_order_of_the_audited_rows(truth: Path) -> None:
    keys = pa.chunked_array([["30"], ["14", "17"]])
    assert planted(truth, keys).tolist() == [True, False, True]


def test_a_row_that_the_truth_does_not_know_is_named(truth: Path) -> None:
    with pytest.raises(InputError, match=r"truth\.parquet: has no line for row 99"):
        planted(truth, pa.chunked_array([["14", "99"]]))


def test_rows_to_remove_and_to_relabel_count_as_found() -> None:
    decisions = ["remove", "review", "remove", "keep", "relabel"]
    table = rows([0.9, 0.8, 0.7, 0.1, 0.6], decisions)
    line = truth_line(table, np.array([True, True, False, False, True]), 3)
    assert (
        "Planted wrong labels: 3. To remove or relabel: 3, of which 2 were planted (precision 66.7 %)" in line
    )
    assert "for review: 1, of which 1 were planted" in line


def test_ranking_is_stated_as_average_precision() -> None:
    # Planted rows on places 1 and 3: (1/1 + 2/3) / 2.
    table = rows([0.2, 0.9, 0.5, 0.4], ["keep"] * 4)
    line = truth_line(table, np.array([False, True, False, True]), 2)
    assert line == "Planted wrong labels: 2. To remove or relabel: 0; ranked: average precision 0.833."


def test_what_the_gate_left_for_review_counts_by_its_proposal() -> None:
    table = rows([0.9, 0.1], ["review", "keep"]).append_column("proposed", pa.array(["remove", None]))
    line = truth_line(table, np.array([True, False]), 1)
    assert "To remove or relabel: 1, of which 1 were planted (precision 100.0 %); ranked" in line


def test_planted_labels_in_rows_that_were_not_judged_are_counted_apart() -> None:
    line = truth_line(rows([0.9, 0.1], ["remove", "keep"]), np.array([True, False]), 3)
    assert "Planted wrong labels: 3, 1 of them in the 2 rows that were judged." in line
