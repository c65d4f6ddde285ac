"""The files of a history, and which verdicts stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.history.folder import HistoryFiles, history_folder
from pipeline.history.verdicts import (
    KIND,
    OF_AUDIT,
    OF_REVIEW,
    SNAPSHOT,
    Verdict,
    as_json,
    read_snapshot,
    record_verdicts,
    standing_verdicts,
    write_snapshot,
)

RIGHT = Verdict("aa", '"cat"', "keep", None, "k1", "ada", "2026-01-05", "", "run1", OF_REVIEW)
WRONG = replace(RIGHT, features_hash="bb", decision="remove", row_key="k2")


def files(folder: Path) -> list[Path]:
    return HistoryFiles(folder, KIND).paths()


def test_the_last_verdict_about_a_row_stands(tmp_path: Path) -> None:
    assert record_verdicts(tmp_path, [RIGHT, WRONG]) == 2
    later = replace(RIGHT, decision="relabel", new_label='"dog"', run_id="run2")
    assert record_verdicts(tmp_path, [later]) == 1
    assert standing_verdicts(tmp_path) == [later, WRONG]


def test_what_is_said_again_adds_no_file(tmp_path: Path) -> None:
    record_verdicts(tmp_path, [RIGHT])
    assert record_verdicts(tmp_path, [replace(RIGHT, run_id="run2", by="bob")]) == 0
    assert len(files(tmp_path)) == 1
    assert record_verdicts(tmp_path, []) == 0


def test_an_unsure_person_ends_an_earlier_verdict(tmp_path: Path) -> None:
    record_verdicts(tmp_path, [RIGHT])
    assert record_verdicts(tmp_path, [replace(RIGHT, decision="review")]) == 1
    assert standing_verdicts(tmp_path) == []
    assert record_verdicts(tmp_path, [replace(WRONG, decision="review")]) == 0


def test_rows_of_other_features_or_another_label_have_verdicts_of_their_own(tmp_path: Path) -> None:
    other = replace(RIGHT, label='"dog"', decision="remove")
    record_verdicts(tmp_path, [RIGHT, other])
    assert standing_verdicts(tmp_path) == [RIGHT, other]


def test_a_run_does_not_read_from_the_history_what_its_own_config_says(tmp_path: Path) -> None:
    record_verdicts(tmp_path, [RIGHT])
    record_verdicts(tmp_path, [replace(WRONG, run_id="run2", origin=OF_AUDIT)])
    assert standing_verdicts(tmp_path, "run2") == [RIGHT]
    assert len(standing_verdicts(tmp_path, "run3")) == 2


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    record_verdicts(tmp_path, [RIGHT])
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=f"{path}: is damaged"):
        standing_verdicts(tmp_path)


def test_a_file_of_a_later_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("pipeline.history.folder.FORMAT", b"2")
        record_verdicts(tmp_path, [RIGHT])
    with pytest.raises(InputError, match="has the format b'2'"):
        standing_verdicts(tmp_path)


def test_a_snapshot_is_only_written_when_something_changed(tmp_path: Path) -> None:
    write_snapshot(tmp_path, [RIGHT])
    before = (tmp_path / SNAPSHOT).stat().st_mtime_ns
    write_snapshot(tmp_path, [RIGHT])
    assert (tmp_path / SNAPSHOT).stat().st_mtime_ns == before
    assert read_snapshot(tmp_path) == [RIGHT]
    write_snapshot(tmp_path, [])
    assert not (tmp_path / SNAPSHOT).exists()
    assert read_snapshot(tmp_path) == []


def test_files_are_parquet_that_anyone_can_read(tmp_path: Path) -> None:
    record_verdicts(tmp_path, [RIGHT])
    table = pq.read_table(files(tmp_path)[0])
    assert table.to_pylist()[0]["by"] == "ada"


def test_the_folder_lies_beside_the_runs_of_the_dataset() -> None:
    assert history_folder(Path("/w/runs/letters/r1"), "letters") == Path("/w/runs/letters/history")
    assert history_folder(Path("/w/out"), "letters") == Path("/w/letters-history")


def test_equal_sets_of_labels_are_equal_as_text() -> None:
    assert as_json(["b", "a"]) == as_json(["a", "b"]) != as_json(["a"])
    assert as_json(3) == "3" != as_json("3")
