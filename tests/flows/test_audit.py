"""The audit flow on a Prefect server, with small stages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows import audit
from flows.audit import Nobody, audit_flow, run_audit, watched_by
from pipeline.attribution.errors import CheckpointError
from pipeline.errors import InputError, WinnowError
from pipeline.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("prefect_api", "small_stages")


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "RETRY_DELAY_SECONDS", 0)


class Notes(Nobody):
    """A watcher that writes everything down."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[tuple[str, bool]] = []
        self.failures: list[str] = []
        self.progressed: list[tuple[str, int, int, str]] = []

    def begins(self, stage: str) -> None:
        self.begun.append(stage)

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        self.progressed.append((what, done, total, unit))

    def fails(self, stage: str, error: Exception) -> None:
        self.failures.append(f"{stage}: {error}")

    def ends(self, stage: str, _facts: dict[str, Any], _seconds: float, before: bool) -> None:
        self.ended.append((stage, before))


def artifacts_of(flow_run: UUID) -> dict[str, Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {each.key: each.data for each in client.read_artifacts() if each.flow_run_id == flow_run}


def test_result_and_message_are_the_run_directory(config_path: Path) -> None:
    state = audit_flow(str(config_path), return_state=True)
    assert state.is_completed()
    assert state.name == "Completed"
    run = RunDirectory(Path(state.message))
    assert state.result() == state.message
    assert run.path.parent == Path("runs/Small.Set_1")
    assert list(run.record["stages"]) == ["prepare", "verify", "export", "report"]


def test_flow_publishes_summary_worst_rows_and_report(config_path: Path) -> None:
    state = audit_flow(str(config_path), return_state=True)
    found = artifacts_of(state.state_details.flow_run_id)
    assert set(found) == {"small-set-1-summary", "small-set-1-worst-rows", "small-set-1-report"}
    assert "NOT TESTED" in found["small-set-1-summary"]
    assert "| remove | 1 |" in found["small-set-1-summary"]
    assert '"row_key": "b"' in found["small-set-1-worst-rows"]
    assert "mislabelled, harmful" in found["small-set-1-worst-rows"]
    assert '"row_key": "a"' not in found["small-set-1-worst-rows"], "row a is kept"
    assert f"file://{Path(state.message).resolve()}/report/index.html" in found["small-set-1-report"]


def test_watcher_hears_stages_and_progress(config_path: Path) -> None:
    notes = Notes()
    result = run_audit(str(config_path), None, None, notes)
    assert notes.begun == ["start", "prepare", "verify", "export", "report"]
    assert notes.ended == [(name, False) for name in ("prepare", "verify", "export", "report")]
    assert notes.progressed == [("encode", 5, 5, "rows")]
    assert result.verdict == "not tested"


def test_finished_stages_are_not_run_again(config_path: Path, small_stages: Any) -> None:
    notes = Notes()
    small_stages.errors = [InputError("bad")]
    with pytest.raises(InputError):
        audit_flow(str(config_path))
    with watched_by(notes):
        audit_flow(str(config_path))
    assert notes.ended == [("prepare", True), ("verify", False), ("export", False), ("report", False)]
    assert small_stages.calls.count("prepare") == 1


@pytest.mark.parametrize(
    "error", [InputError("the label is null", "Drop the row."), CheckpointError("gone", "Train again.")]
)
def test_errors_that_would_come_again_come_out_at_once(
    config_path: Path, small_stages: Any, error: Exception
) -> None:
    small_stages.errors = [error]
    with pytest.raises(type(error)) as caught:
        audit_flow(str(config_path))
    assert caught.value is error
    assert small_stages.calls == ["prepare", "verify"]


def test_failed_stage_is_tried_again(config_path: Path, small_stages: Any) -> None:
    notes = Notes()
    small_stages.errors = [RuntimeError("a worker died")]
    with watched_by(notes):
        audit_flow(str(config_path))
    assert notes.failures == ["verify: a worker died"]
    assert small_stages.calls == ["prepare", "verify", "verify", "export", "report"]


def test_last_failure_comes_out_as_itself(config_path: Path, small_stages: Any) -> None:
    small_stages.errors = [WinnowError("first"), WinnowError("second", "Do this.")]
    with pytest.raises(WinnowError) as caught:
        audit_flow(str(config_path))
    assert (caught.value.message, caught.value.hint) == ("second", "Do this.")
    assert small_stages.calls == ["prepare", "verify", "verify"]


def test_number_of_retries_is_the_configs(config_path: Path, small_stages: Any) -> None:
    small_stages.errors = [WinnowError("no")]
    with pytest.raises(WinnowError, match="no"):
        audit_flow(str(config_path), changes={"orchestration.retries": 0})


def test_stage_that_takes_too_long_names_the_setting(
    config_path: Path, small_stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_stages, "prepare", lambda _: time.sleep(30))
    changes = {"orchestration.timeout_hours": 0.3 / 3600, "orchestration.retries": 0}
    with pytest.raises(WinnowError, match="prepare: not done after") as caught:
        audit_flow(str(config_path), changes=changes)
    assert "orchestration.timeout_hours" in caught.value.hint


def test_wrong_config_comes_out_as_itself(config_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key `training\.epoch`"):
        audit_flow(str(config_path), changes={"training.epoch": 3})


def test_refused_export_is_a_failed_flow_run_and_a_finished_run(config_path: Path, small_stages: Any) -> None:
    small_stages.refused = True
    state = audit_flow(str(config_path), return_state=True)
    assert state.is_failed()
    assert state.name == "Refused"
    result = run_audit(str(config_path), None, state.message, Notes())
    assert result.refused
    assert str(result.run.path) == state.message


def test_output_and_changes_reach_the_run(config_path: Path, tmp_path: Path) -> None:
    path = audit_flow(str(config_path), {"detection.max_removed": 0.125}, str(tmp_path / "here"))
    assert path == str(tmp_path / "here")
    assert "max_removed: 0.125" in (tmp_path / "here/config.yaml").read_text()


def test_nothing_is_pickled(config_path: Path, small_stages: Any, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    small_stages.errors = [InputError("bad", "Mend it.")]
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "storage"}), pytest.raises(InputError):
        audit_flow(str(config_path))
    kept = [path.read_text() for path in (tmp_path / "storage").iterdir()]
    assert kept, "Prefect keeps the error"
    assert all("InputError" in text for text in kept), "as JSON that names its type"
