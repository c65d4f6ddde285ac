"""What is trusted of a run: listing and opening damaged runs, and runs that were made before there were checksums."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.kills import DAMAGES, copy_run, damage, resume, run_to, watched
from benchmarks.kills import Uninterrupted as Finished
from benchmarks.tiny_run import ROWS, RUN, in_folder, tiny_audit, tiny_config, write_tiny
from flows.cli import run as command
from pipeline.artifacts import Ledger, Step, begin_journal, marks
from pipeline.artifacts.journal import JOURNAL
from pipeline.attribution.atomic import BEFORE, write_folder_atomically
from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.results.comparison import compare_runs
from pipeline.results.result import AuditResult
from pipeline.reviewing.review import write_sheet
from pipeline.runs.directory import RunDirectory, read_json, write_text
from pipeline.runs.listing import list_runs
from pipeline.stages.again import export_again, report_again
from pipeline.stages.stages import STAGES, fingerprints, run_stage
from pipeline.trace.trace import trace

LAST = STAGES[-1].name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    write_tiny(folder)
    return run_to(tiny_config(folder, detection__panel=False), folder, LAST, every=10**6)


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Path:
    """A folder with the finished run in `run/`."""
    copy_run(finished.ends[LAST] / RUN, tmp_path / RUN)
    return tmp_path


def strip(run: Path) -> None:
    """As runs were before: no journal, and markers with a fingerprint alone."""
    shutil.rmtree(run / JOURNAL)
    for path in (run / "stages").glob("*.json"):
        fingerprint = read_json(path)["fingerprint"]
        path.unlink()
        path.write_text(json.dumps({"fingerprint": fingerprint}))


def test_a_file_is_whole_by_its_content_alone(tmp_path: Path) -> None:
    begin_journal(tmp_path)
    path = tmp_path / "folder" / "a.txt"
    write_text(path, "content")
    write_text(path, "another")
    assert Ledger(tmp_path).state(path) == "whole"
    path.write_text("anothes")
    assert "checksum" in Ledger(tmp_path).state(path)
    path.write_text("anoth")
    assert Ledger(tmp_path).state(path) == "is cut off after 5 of 7 bytes"
    path.write_text("")
    assert Ledger(tmp_path).state(path) == "is empty"
    path.unlink()
    assert Ledger(tmp_path).state(path) == "is missing"
    (tmp_path / "b.txt").write_text("by somebody")
    assert Ledger(tmp_path).state(tmp_path / "b.txt") == "unnamed"


def test_damaged_lines_of_a_journal_name_nothing(tmp_path: Path) -> None:
    begin_journal(tmp_path)
    write_text(tmp_path / "a", "content")
    (journal,) = (tmp_path / JOURNAL).iterdir()
    whole = journal.read_bytes()
    for broken in (whole[:-20], b"", b"\x00\xff", b'{"file": 3}\n', b'[1]\n{"file": "a", "mark": "b"}'):
        journal.write_bytes(broken)
        assert Ledger(tmp_path).state(tmp_path / "a") == "unnamed"
    journal.write_bytes(b'{"file": "a", "mark": [7, ' + whole)  # cut off, then gone on with
    assert Ledger(tmp_path).state(tmp_path / "a") == "whole"


def test_a_step_is_done_only_with_all_its_files(tmp_path: Path) -> None:
    begin_journal(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    write_text(one, "1")
    assert not Step(one, two).done
    write_text(two, "2")
    assert not Step(one, two).done
    Step(one, two).finish()
    assert Step(one, two).done
    two.unlink()
    assert not Step(one, two).done


def test_the_files_of_a_folder_are_named_where_it_is_put(tmp_path: Path) -> None:
    begin_journal(tmp_path)
    with write_folder_atomically(tmp_path / "folder") as made:
        write_text(made / "a.txt", "content")
        write_text(made / "passing" / "b.txt", "content")
        (made / "passing" / "b.txt").unlink()
    ledger = Ledger(tmp_path)
    assert ledger.state(tmp_path / "folder/a.txt") == "whole"
    assert set(ledger.written) == {"folder/a.txt"}


def test_outside_of_runs_nothing_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_is_read_once_by_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_journal(tmp_path)
    write_text(tmp_path / "written", "here")
    (tmp_path / "other").write_text("elsewhere")
    read: list[str] = []
    measured = marks.measured
    monkeypatch.setattr(marks, "measured", lambda path: (read.append(path.name), measured(path))[1])
    for _ in range(3):
        marks.mark_of(tmp_path / "written")
        marks.mark_of(tmp_path / "other")
    assert read == ["other"]


class Killed(BaseException):
    pass


def test_a_kill_between_the_query_and_its_scale_leaves_no_run_without_the_scale(
    finished: Finished, tmp_path: Path
) -> None:
    copy_run(finished.ends["train"] / RUN, tmp_path / RUN)

    def kill(moment: str, path: Path, _temporary: Path) -> None:
        if moment == BEFORE and path.name == "scale.json":
            raise Killed

    with watched(kill), pytest.raises(Killed):
        resume(finished, tmp_path, "factors")
    there = {path.name for path in (tmp_path / RUN / "factors").iterdir()}
    assert "query-validation.safetensors" in there
    assert "scale.json" not in there
    assert resume(finished, tmp_path, "factors") == []
    assert read_json(tmp_path / RUN / "factors/scale.json")["alpha"] > 0


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["record.json", "report/summary.json"])
def test_one_damaged_run_is_listed_as_such_beside_the_others(copy: Path, name: str, how: str) -> None:
    copy_run(copy / RUN, copy / "whole")
    damage(copy / RUN / name, how)
    lines = {Path(line.path).name: line for line in list_runs(copy)}
    assert lines["whole"].damaged is None
    assert lines["whole"].verdict is not None
    if (name, how) == ("record.json", "deleted"):
        assert set(lines) == {"whole"}
    else:
        assert name in str(lines["run"].damaged)
        assert lines["run"].verdict is None


@pytest.mark.parametrize("name", ["record.json", "config.yaml", "rows.parquet", "report/summary.json"])
def test_opening_a_damaged_run_says_what_to_do(copy: Path, name: str) -> None:
    damage(copy / RUN / name, "one bit flipped")
    of_result = name in ("rows.parquet", "report/summary.json")
    with pytest.raises(InputError, match=name) as error:
        AuditResult(copy / RUN) if of_result else report_again(copy / RUN)
    assert f"--output {copy / RUN} makes anew what is damaged" in str(error.value)


def test_a_report_made_anew_makes_damaged_scores_anew(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = next((copy / RUN / "scores").glob("*.parquet"))
    before = path.read_bytes()
    damage(path, "truncated")
    with in_folder(copy):
        report_again(RUN)
    assert path.read_bytes() == before
    assert path.name in caplog.text


def test_a_run_without_checksums_is_listed_reported_compared_and_exported(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strip(copy / RUN)
    (line,) = list_runs(copy)
    assert line.damaged is None
    assert line.verdict == AuditResult(copy / RUN).verdict
    assert compare_runs(copy / RUN, copy / RUN)["flags"]["first_only"] == 0
    rows = (copy / RUN / "rows.parquet").read_bytes()
    with in_folder(copy):
        report_again(RUN)
        export_again(RUN)
    assert (copy / RUN / "rows.parquet").read_bytes() == rows
    assert "scores" not in caplog.text


def test_a_resume_of_a_run_without_checksums_makes_its_stages_anew_and_says_so(
    finished: Finished, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strip(copy / RUN)
    chunk = next((copy / RUN / "scores").glob("*.parquet"))
    whole = chunk.read_bytes()
    damage(chunk, "one bit flipped")  # which nothing tells
    assert resume(finished, copy, LAST) == []
    assert chunk.read_bytes() == whole
    for name in ("catalog.parquet", "training", "factors", "scores", "detection", "report"):
        assert name in caplog.text
    assert "no checksums" in caplog.text


def test_a_moved_run_without_its_journal_is_still_whole(
    finished: Finished, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(copy / RUN / JOURNAL)
    assert resume(finished, copy, LAST) == []
    assert caplog.text == ""


def test_a_damaged_config_is_written_anew(
    finished: Finished, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(copy / RUN / "config.yaml", "foreign")
    assert resume(finished, copy, LAST) == []
    assert load_config(copy / RUN / "config.yaml").name == "tiny"
    assert "config.yaml" in caplog.text


def test_a_damaged_record_costs_no_finished_training(
    finished: Finished, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = copy / RUN / "training/main/epoch-001.safetensors"
    before = trained.stat().st_mtime_ns
    damage(copy / RUN / "record.json", "truncated")
    assert resume(finished, copy, LAST) == []
    assert trained.stat().st_mtime_ns == before
    assert "record.json" in caplog.text
    assert list(RunDirectory(copy / RUN).record["stages"]) == [stage.name for stage in STAGES]


def test_damage_is_said_of_a_stage_that_the_record_does_not_name(
    finished: Finished, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(copy / RUN / "factors/scale.json", "one bit flipped")
    (copy / RUN / "record.json").unlink()
    assert resume(finished, copy, LAST) == []
    assert caplog.text.count("factors/scale.json") == 1


def retrained(folder: Path) -> dict[str, int]:
    """Of every retraining its file's number on disk, which is another one when the file is written anew."""
    return {path.name: path.stat().st_ino for path in (folder / RUN / "verification").glob("*.safetensors")}


def audit_again(finished: Finished, folder: Path, **changes: object) -> None:
    config = finished.config.with_changes({key.replace("__", "."): value for key, value in changes.items()})
    with tiny_audit(config, folder) as context:
        expected = fingerprints(config)
        for stage in STAGES:
            run_stage(stage, context, expected[stage.name])


def test_answers_about_the_holdout_retrain_nothing(
    finished: Finished, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = retrained(copy)
    assert before
    unanswered = pa.nulls(ROWS["holdout"] - 1, pa.string())
    answers = pa.table(
        {
            "verdict": pa.chunked_array([["right"], unanswered]),
            "label": pa.nulls(ROWS["holdout"], pa.string()),
        }
    )
    pq.write_table(answers, copy / "answers.parquet")
    audit_again(finished, copy, verification__answers=str(copy / "answers.parquet"))
    assert retrained(copy) == before
    assert caplog.text == ""
    assert resume(finished, copy, LAST) == [], "and back to none"


def test_more_seeds_retrain_what_is_not_there(finished: Finished, copy: Path) -> None:
    before = retrained(copy)
    audit_again(finished, copy, verification__seeds=3)
    assert len(retrained(copy)) == 3 * len(before) // 2
    assert before.items() <= retrained(copy).items()


def test_other_proposals_are_retrained_anew(finished: Finished, copy: Path) -> None:
    before = retrained(copy)
    audit_again(finished, copy, detection__max_removed=0.05)
    assert not set(before.values()) & set(retrained(copy).values())


def test_a_trace_and_a_review_refuse_damaged_files(copy: Path) -> None:
    damage(copy / RUN / "factors/segment-0.safetensors", "one bit flipped")
    damage(copy / RUN / "detection/candidates.parquet", "one bit flipped")
    with pytest.raises(InputError, match=r"segment-0.safetensors: does not have the content"):
        trace(copy / RUN, copy / "queries.parquet")
    with pytest.raises(InputError, match=r"candidates.parquet: does not have the content"):
        write_sheet(copy / RUN, 5)


def test_damaged_answers_of_people_are_not_used(copy: Path) -> None:
    write_sheet(copy / RUN, 5)
    damage(copy / RUN / "review/answers.parquet", "one bit flipped")
    with pytest.raises(InputError, match="Restore a copy of it"):
        write_sheet(copy / RUN, 5)


def test_the_commands_say_on_stderr_what_is_damaged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next((copy / RUN / "scores").glob("*.parquet"))
    damage(path, "empty")
    with in_folder(copy):
        assert command(["report", str(RUN)]) == 0
    assert f"{path.name}: is empty; the stage attribute makes it anew" in capsys.readouterr().err
    damage(copy / RUN / "record.json", "empty")
    assert command(["runs", str(copy)]) == 0
    assert "record.json: is empty" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["runs", "."], ["report", str(RUN)]])
def test_runs_are_listed_and_reported_without_torch(copy: Path, arguments: list[str]) -> None:
    program = f"import sys; from flows.cli import run; print(run({arguments}), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
