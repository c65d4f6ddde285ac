"""Which rows are new, changed or gone since the audit before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.catalog import NAME
from pipeline.data.hashing import hex_ids, key_ids
from pipeline.history.folder import HistoryFiles
from pipeline.history.rows import KIND, RowChanges, changes_since, record_rows


def make_run(folder: Path, name: str, rows: dict[str, str]) -> Path:
    """A run directory whose catalog has these rows: key → content."""
    path = folder / name
    path.mkdir()
    columns = {
        "row_key": list(rows),
        "content_hash": hex_ids(key_ids(list(rows.values()))),
        "shard": ["part.parquet"] * len(rows),
        "split": ["train"] * len(rows),
    }
    pq.write_table(pa.table(columns), path / NAME)
    return path


def changes(folder: Path, run: Path, keyed: bool = True) -> RowChanges:
    found = changes_since(folder, run, keyed)
    assert found is not None
    return found


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history"


def test_the_first_audit_has_nothing_to_compare_with(tmp_path: Path, history: Path) -> None:
    assert changes_since(history, make_run(tmp_path, "r1", {"a": "x"}), True) is None


def test_new_changed_and_vanished_rows_are_told_apart(tmp_path: Path, history: Path) -> None:
    record_rows(history, make_run(tmp_path, "r1", {"a": "x", "b": "y", "c": "z"}), True)
    found = changes(history, make_run(tmp_path, "r2", {"d": "w", "b": "other", "a": "x"}))
    assert found.since == "r1"
    assert found.new.tolist() == [True, False, False]
    assert found.changed.tolist() == [False, True, False]
    assert found.vanished == 1


def test_without_a_key_column_rows_are_known_by_their_content(tmp_path: Path, history: Path) -> None:
    record_rows(history, make_run(tmp_path, "r1", {"p#0": "x", "p#1": "y"}), False)
    found = changes(history, make_run(tmp_path, "r2", {"q#0": "y", "q#1": "new", "q#2": "x"}), False)
    assert found.new.tolist() == [False, True, False]
    assert not found.changed.any()
    assert found.vanished == 0


def test_a_row_that_comes_back_is_new_again(tmp_path: Path, history: Path) -> None:
    for name, rows in (("r1", {"a": "x", "b": "y"}), ("r2", {"a": "x"})):
        record_rows(history, make_run(tmp_path, name, rows), True)
    found = changes(history, make_run(tmp_path, "r3", {"a": "x", "b": "y"}))
    assert found.since == "r2"
    assert found.new.tolist() == [False, True]
    assert found.vanished == 0


def test_a_run_that_is_repeated_is_compared_with_the_one_before_it(tmp_path: Path, history: Path) -> None:
    first = make_run(tmp_path, "r1", {"a": "x"})
    second = make_run(tmp_path, "r2", {"a": "x", "b": "y"})
    third = make_run(tmp_path, "r3", {"a": "x", "b": "y"})
    for run in (first, second, second, third):
        record_rows(history, run, True)
    assert len(HistoryFiles(history, KIND).paths()) == 3
    assert changes(history, second).new.tolist() == [False, True]
    assert changes(history, third).since == "r2"
    assert not changes(history, third).new.any()
    assert changes_since(history, first, True) is None


def test_the_events_tell_which_rows_were_there(tmp_path: Path, history: Path) -> None:
    random = np.random.default_rng(0)
    truth: dict[str, str] = {}
    for week in range(6):
        for key in random.integers(0, 30, 10).tolist():
            truth[f"k{key}"] = f"{key} {random.integers(3)}"
        for key in random.integers(0, 30, 5).tolist():
            truth.pop(f"k{key}", None)
        record_rows(history, make_run(tmp_path, f"r{week}", truth), True)
    there: dict[str, str] = {}
    for path in HistoryFiles(history, KIND).paths():
        events = pq.read_table(path).to_pylist()
        for row in sorted(
            events, key=lambda row: row["event"], reverse=True
        ):  # what vanished, then what appeared
            if row["event"] == "vanished":
                assert there.pop(row["row_key"]) == row["content_hash"]
            else:
                there[row["row_key"]] = row["content_hash"]
    assert there == dict(zip(truth, hex_ids(key_ids(list(truth.values())))))
