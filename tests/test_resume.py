"""kill -9 at every stage: the same call goes on, makes only what is missing, and ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from digits_run import ROOT, digits_config, run_until

from pipeline.errors import InputError
from pipeline.runs.directory import RunDirectory, read_json
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, fingerprints, run_stage

CHANGES: dict[str, object] = {"compute__chunk_rows": 100, "compute__workers": 2}
PATIENCE_SECONDS = 120


def start(config_path: Path, run: Path) -> subprocess.Popen[bytes]:
    code = f"import pipeline\npipeline.audit({str(config_path)!r}, {str(run)!r})"
    script = config_path.with_suffix(".py")
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert process.poll() is None, "the audit ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def some(run: Path, pattern: str, count: int = 1) -> Callable[[], bool]:
    return lambda: len(list(run.glob(pattern))) >= count


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.yaml"
    path.write_text(digits_config(**CHANGES).to_yaml())
    return path


@pytest.fixture(scope="module")
def undisturbed(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(config_path, run).wait(PATIENCE_SECONDS) == 0
    return run


def test_kills_at_every_stage_change_nothing(config_path: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    moments = {
        "prepare": some(run, "encoded/*.safetensors"),
        "halves": some(run, "training/half-*/epoch-002*"),
        "main run": some(run, "training/main/epoch-003*"),
        "factors": some(run, "factors/parts/covariance/leaf-*", 2),
        "attribute": some(run, "scores/*.parquet", 2),
        "panel": some(run, "panel/**/*.npy", 4),
        "detect": some(run, "detection/*"),
        "verify": some(run, "verification/*.safetensors", 2),
        "export": some(run, "cleaned/*.parquet"),
    }
    for moment, happened in moments.items():
        process = start(config_path, run)
        wait_for(happened, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (run / "report").exists(), f"the kill in {moment} came too late"
    assert start(config_path, run).wait(PATIENCE_SECONDS) == 0
    assert_same_results(run, undisturbed)
    assert not list(run.rglob("*.part"))


def test_a_killed_worker_changes_nothing(config_path: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(config_path, run)
    for pattern in ("training/half-*/epoch-002*", "scores/*.parquet", "verification/*.safetensors"):
        wait_for(some(run, pattern), process)
        workers = [
            c for c in psutil.Process(process.pid).children() if "local_worker" in " ".join(c.cmdline())
        ]
        workers[0].kill()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert_same_results(run, undisturbed)


def assert_same_results(run: Path, expected: Path) -> None:
    for name in ("rows.parquet", "signals.parquet", "catalog.parquet", "verification.json"):
        one, two = (run / name).read_bytes(), (expected / name).read_bytes()
        assert one == two, name
    for path in (expected / "cleaned").glob("*.parquet"):
        assert (run / "cleaned" / path.name).read_bytes() == path.read_bytes()


def test_only_what_is_missing_is_made_again(undisturbed: Path, config_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    lost = sorted((run / "verification").glob("*.safetensors"))[0]
    lost.unlink()
    kept = {p: p.stat().st_mtime_ns for p in (run / "verification").glob("*.safetensors")}
    record = read_json(run / "record.json")
    del record["stages"]["verify"]
    RunDirectory(run).update_record(stages=record["stages"])
    assert start(config_path, run).wait(PATIENCE_SECONDS) == 0
    assert lost.exists()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_a_copied_run_is_complete_where_it_lies(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(undisturbed, run)
    config = digits_config(**CHANGES)
    with open_run(config, run) as context:
        expected = fingerprints(config)
        assert not [stage.name for stage in STAGES if run_stage(stage, context, expected[stage.name])]


def test_a_changed_threshold_reruns_only_what_follows_it(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    config = digits_config(**CHANGES, detection__max_removed=0.02, verification__seeds=0)
    with open_run(config, run) as context:
        expected = fingerprints(config)
        ran = [stage.name for stage in STAGES if run_stage(stage, context, expected[stage.name])]
    assert ran == ["detect", "verify", "export", "report"]
    assert read_json(run / "verification.json")["verdict"] == "not tested"


def test_an_output_of_another_config_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    other = digits_config(**CHANGES, data__max_tokens=3)
    with pytest.raises(InputError, match="its `data` differs"), open_run(other, undisturbed):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty, and not a run directory"):
        run_until(digits_config(), tmp_path / "full", "prepare")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


def test_the_newest_unfinished_run_of_the_same_config_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.opening.RUNS", tmp_path / "runs")
    config = digits_config()
    with open_run(config) as first:
        pass
    with open_run(config) as second:
        assert second.run.path == first.run.path
    with open_run(config.with_changes({"training.seed": 5})) as other:
        assert other.run.path != first.run.path
    first.run.update_record(stages={"report": {}})
    with open_run(config) as third:
        assert third.run.path not in (first.run.path, other.run.path)
