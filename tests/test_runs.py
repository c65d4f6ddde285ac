"""Listing and comparing runs, and making a run's report and export anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.results.comparison import compare_runs
from pipeline.runs.directory import RunDirectory, write_json, write_text
from pipeline.runs.listing import list_runs
from pipeline.stages import stages
from pipeline.stages.again import export_again, report_again

CONFIG = "{name: small, data: {train: part.parquet, features: {x: numeric}, label: y}}"


def make_run(path: Path, decisions: dict[str, str], **summary: Any) -> RunDirectory:
    """A finished run with these decisions by row key."""
    run = RunDirectory(path)
    table = pa.table(
        {
            "row_key": list(decisions),
            "decision": list(decisions.values()),
            "suspicion": [0.5] * len(decisions),
        }
    )
    counts = {each: list(decisions.values()).count(each) for each in ("keep", "review", "remove", "relabel")}
    found = {
        "task": "classification",
        "rows_audited": len(decisions),
        "decisions": counts,
        "verdict": "not tested",
        "estimated_noise": None,
        "metric": "accuracy",
        "arms": {},
        "differences": {},
    }
    write_text(run / "config.yaml", CONFIG)
    pq.write_table(table, run / "rows.parquet")
    write_json(run / "report/summary.json", found | summary)
    write_json(
        run / "record.json", {"run_id": path.name, "stages": {name: {} for name in ("prepare", "report")}}
    )
    return run


def test_list_has_the_newest_last(tmp_path: Path) -> None:
    for age, name in ((30, "b/2"), (10, "a/1"), (20, "a/0")):
        run = make_run(tmp_path / name, {"x": "remove", "y": "keep"}, verdict="improved")
        os.utime(run / "record.json", (1_000_000 - age, 1_000_000 - age))
    found = list_runs(tmp_path)
    assert [Path(line.path).relative_to(tmp_path).as_posix() for line in found] == ["b/2", "a/0", "a/1"]
    assert {(line.verdict, line.rows, line.removed) for line in found} == {("improved", 2, 1)}


def test_runs_that_were_put_elsewhere_are_listed_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", {"x": "keep"})
    assert [line.path for line in list_runs(tmp_path)] == [str(run.path)]


def test_unfinished_run_says_how_far_it_came(tmp_path: Path) -> None:
    stages_done = {"prepare": {}, "train": {}}
    write_json(tmp_path / "a/1/record.json", {"run_id": "1", "stages": stages_done})
    (line,) = list_runs(tmp_path)
    assert (line.verdict, line.rows, line.removed, line.last_stage) == (None, None, None, "train")


def test_folder_without_runs_gives_an_empty_list(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such directory"):
        list_runs(tmp_path / "nowhere")


def test_usual_folder_need_not_be_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_runs() == []


def test_flags_are_matched_by_key(tmp_path: Path) -> None:
    one = make_run(tmp_path / "1", {"a": "remove", "b": "review", "c": "keep", "d": "keep"})
    two = make_run(tmp_path / "2", {"e": "remove", "c": "review", "b": "relabel", "a": "keep"})
    found = compare_runs(one.path, two.path)
    assert found["flags"] == {"both": 1, "first_only": 1, "second_only": 2}
    assert found["values"]["to remove"] == [1, 1]
    assert found["values"]["to relabel"] == [0, 1]


def test_metrics_stand_side_by_side_and_gaps_are_none(tmp_path: Path) -> None:
    arms = {"as_given": {"metric": 0.80}, "cleaned": {"metric": 0.83}}
    differences = {"cleaned - as_given": {"metric": {"mean": 0.03, "low": 0.01, "high": 0.05}}}
    one = make_run(tmp_path / "1", {"a": "keep"}, arms=arms, differences=differences, verdict="improved")
    two = make_run(tmp_path / "2", {"a": "keep"}, estimated_noise={"value": 0.1, "low": 0.0, "high": 0.2})
    values = compare_runs(one.path, two.path)["values"]
    assert values["verdict"] == ["improved", "not tested"]
    assert values["holdout accuracy as given"] == [0.80, None]
    assert values["holdout accuracy cleaned"] == [0.83, None]
    assert values["change of accuracy"] == [0.03, None]
    assert values["estimated noise"] == [None, 0.1]


def test_comparing_needs_finished_runs(tmp_path: Path) -> None:
    one = make_run(tmp_path / "1", {"a": "keep"})
    with pytest.raises(InputError, match="not a finished run"):
        compare_runs(one.path, tmp_path / "nowhere")


def test_runs_of_different_tasks_are_not_compared(tmp_path: Path) -> None:
    one = make_run(tmp_path / "1", {"a": "keep"})
    two = make_run(tmp_path / "2", {"a": "keep"}, task="regression")
    with pytest.raises(InputError, match=r"is a classification and .* a regression"):
        compare_runs(one.path, two.path)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDirectory, list[str]]:
    """A run whose export and report note that they were called."""
    run = make_run(tmp_path / "1", {"a": "remove", "b": "keep"})
    names = ("verify", "export", "report")
    write_json(
        run / "record.json", {"run_id": "1", "stages": {name: {"fingerprint": name} for name in names}}
    )
    for name in names:
        write_json(run / f"stages/{name}.json", {"fingerprint": name})
    calls: list[str] = []

    def note(stage: stages.Stage, _: Any) -> dict[str, Any]:
        calls.append(stage.name)
        return {"call": len(calls), "refused": False}

    monkeypatch.setattr(stages.Stage, "run", note)
    return run, calls


def test_report_alone_is_made_anew(finished: tuple[RunDirectory, list[str]]) -> None:
    run, calls = finished
    assert report_again(run.path) == run / "report/index.html"
    assert calls == ["report"]
    assert run.is_complete("report", "report")


def test_export_is_made_anew_with_its_report(finished: tuple[RunDirectory, list[str]]) -> None:
    run, calls = finished
    assert export_again(run.path) == {"call": 1, "refused": False}
    assert calls == ["export", "report"]
    assert run.is_complete("export", "export")


def test_interrupted_attempt_does_not_stand_in_the_way(
    finished: tuple[RunDirectory, list[str]],
) -> None:
    run, calls = finished
    run.begin_stage("report", "report", ())  # which takes it out of the record
    report_again(run.path)
    assert calls == ["report"]


def test_run_that_another_process_holds_is_left_alone(finished: tuple[RunDirectory, list[str]]) -> None:
    run, calls = finished
    with run.lock(), pytest.raises(InputError, match="another audit is running"):
        report_again(run.path)
    assert calls == []


@pytest.mark.parametrize("again", [report_again, export_again])
def test_run_that_has_not_come_that_far_is_refused(tmp_path: Path, again: Any) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        again(tmp_path)
    write_json(tmp_path / "record.json", {"run_id": "1", "stages": {"prepare": {}}})
    with pytest.raises(InputError, match="has not finished the stage verify"):
        again(tmp_path)
