"""The command: exit statuses, errors in words, JSON documents, and that it starts fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from flows.cli import run
from flows.cli.shared import parse_changes
from pipeline.attribution.errors import CheckpointError
from pipeline.config import load_config
from pipeline.errors import InputError, WinnowError


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.server.begin_server", lambda: None)


@pytest.fixture
def audit_raises(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the audit raise an error instead of running."""

    def prepare(error: BaseException) -> None:
        def run_audit(*_: Any) -> None:
            raise error

        monkeypatch.setattr("flows.audit.run_audit", run_audit)

    return prepare


@pytest.fixture
def audit_gives(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the audit give a result instead of running; gives the arguments of its calls."""
    calls: list[tuple[Any, ...]] = []

    def prepare(refused: bool, **changes: Any) -> list[tuple[Any, ...]]:
        paths = {"report": Path("r/report/index.html"), "cleaned": Path("r/cleaned")}
        path = SimpleNamespace(path=Path("r"), run_id="r")
        result = SimpleNamespace(summary=SUMMARY | changes, refused=refused, run=path, paths=paths)
        monkeypatch.setattr("flows.audit.run_audit", lambda *given: calls.append(given) or result)
        return calls

    return prepare


SUMMARY: dict[str, Any] = {
    "name": "small",
    "verdict": "not tested",
    "note": "Small.",
    "differences": {},
    "decisions": {"keep": 3, "review": 0, "remove": 0, "relabel": 0},
    "reasons": {},
    "backdoors": [],
    "estimated_noise": None,
    "estimated_noise_note": "",
    "predicted_loss_change": None,
    "measured_loss_change": None,
    "export": {"refused": False, "gate": "refuse-worse"},
}


def test_help_needs_nothing_heavy() -> None:
    heavy = "torch prefect dask distributed sklearn pyarrow numpy"
    script = f"import sys, flows.cli; print(sorted(set({heavy.split()}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("init", "check", "audit", "report", "export", "schedule", "runs", "compare"):
        assert f"  {name} " in shown


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            InputError("part.parquet, row 8: label is null", "Drop the row.\n  (2 more rows)"),
            2,
            ["error: part.parquet, row 8: label is null", "  Drop the row.", "  (2 more rows)"],
        ),
        (WinnowError("the disk is full", "Free some."), 1, ["error: the disk is full", "  Free some."]),
        (WinnowError("no hint"), 1, ["error: no hint"]),
        (CheckpointError("a checkpoint is gone", "Train."), 1, ["error: a checkpoint is gone", "  Train."]),
        (
            ValueError("odd\nsecond line"),
            1,
            ["error: ValueError: odd", "  this is a bug; run again with --verbose and report it"],
        ),
    ],
)
def test_errors_are_told_in_words(
    config_path: Path,
    audit_raises: Any,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    said: list[str],
) -> None:
    audit_raises(error)
    assert run(["audit", str(config_path)]) == status
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize("place", [0, 2])
def test_traceback_only_with_verbose(
    config_path: Path, audit_raises: Any, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    audit_raises(WinnowError("no"))
    arguments = ["audit", str(config_path)]
    arguments.insert(place, "--verbose")
    assert run(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    caught = capsys.readouterr()
    assert "Commands:" in caught.out
    assert caught.err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["audit"], "Missing argument 'CONFIG'"),
        (["frobnicate"], "No such command"),
        (["audit", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["audit", "small.yaml", "--set", "training.epochs"], "--set training.epochs: no value"),
        (["audit", "small.yaml", "--set", "training.epoch=3"], "unknown key `training.epoch`"),
        (["report", "nowhere"], "nowhere: not a run directory"),
        (["compare", "one", "two"], "one: not a finished run"),
        (["lds", "nowhere"], "nowhere: no such config file or run"),
    ],
)
@pytest.mark.usefixtures("config_path")
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert run(arguments) == 2
    caught = capsys.readouterr()
    assert caught.err.startswith("error: ")
    assert said in caught.err
    assert caught.out == ""


def test_interrupted_audit_says_that_it_goes_on(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_audit(_config: str, _changes: Any, _output: Any, watcher: Any, _again: bool) -> None:
        watcher.begins("attribute")
        watcher.progress("attribute", 21504, 32960, "rows")
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.audit.run_audit", run_audit)
    assert run(["audit", str(config_path)]) == 130
    said = "stopped in attribute, 21,504 of 32,960 rows done. The same command goes on from here.\n"
    assert capsys.readouterr().err == said


def test_interrupted_lds_says_that_it_goes_on(
    config_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lds(_source: Any, _plan: Any, _output: Any, progress: Any, _say: Any) -> None:
        progress("lds: random subsets", 3, 100, "retrainings")
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.faithfulness.measure.lds", lds)
    assert run(["lds", str(config_path)]) == 130
    said = "stopped in lds, 3 of 100 retrainings done. The same command goes on from here.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(("refused", "status"), [(False, 0), (True, 3)])
def test_refused_export_is_status_3(
    config_path: Path, audit_gives: Any, capsys: pytest.CaptureFixture[str], refused: bool, status: int
) -> None:
    audit_gives(refused)
    assert run(["audit", str(config_path)]) == status
    shown = capsys.readouterr().out
    assert "NOT TESTED: Small" in shown
    assert ("not written: the verification gate refused it" in shown) == refused


def test_what_was_not_written_is_not_pointed_to(
    config_path: Path, audit_gives: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    audit_gives(False)
    assert run(["audit", str(config_path)]) == 0
    shown = capsys.readouterr().out
    assert "r/cleaned" in shown
    assert "quarantine" not in shown
    audit_gives(False, decisions=SUMMARY["decisions"] | {"remove": 1})
    run(["audit", str(config_path)])
    assert "quarantine/ beside it" in capsys.readouterr().out
    audit_gives(False, export={"refused": False, "gate": "off", "skipped": "nothing was exported: labels"})
    run(["audit", str(config_path)])
    shown = capsys.readouterr().out
    assert "cleaned dataset" not in shown
    assert shown.lower().count("nothing was exported") == 1


@pytest.mark.parametrize("refused", [False, True])
def test_export_says_where_the_dataset_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: bool
) -> None:
    facts = {
        "refused": refused,
        "verdict": "worse",
        "rows_kept": 2,
        "rows_removed": 1,
        "rows_relabelled": 0,
    }
    monkeypatch.setattr("pipeline.stages.again.export_again", lambda *_: facts)
    assert run(["export", "here"]) == (3 if refused else 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ([] if refused else ["here/cleaned"])


@pytest.mark.parametrize("refused", [False, True])
def test_export_with_decisions_audits_again_in_the_run(
    audit_gives: Any, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    calls = audit_gives(refused)
    taken: list[Any] = []
    changes = {"detection.decisions": "r/review/decisions.csv"}
    monkeypatch.setattr("pipeline.stages.again.take_decisions", lambda *given: taken.append(given) or changes)
    assert run(["export", "r", "--decisions", "mine.csv"]) == (3 if refused else 0)
    assert taken == [(Path("r"), Path("mine.csv"))]
    assert calls[0][:3] == ("r/config.yaml", changes, "r")


def test_export_as_proposed_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"refused": False, "rows_kept": 2, "rows_removed": 1, "rows_relabelled": 0, "proposed": True}
    calls: list[Any] = []
    monkeypatch.setattr("pipeline.stages.again.export_again", lambda *given: calls.append(given) or facts)
    assert run(["export", "r", "--proposed"]) == 0
    assert calls == [(Path("r"), None, True)]


def test_json_is_the_only_thing_on_stdout(
    config_path: Path, audit_gives: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    audit_gives(False)
    assert run(["audit", str(config_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "not tested"
    assert document["run"] == "r"
    assert document["refused"] is False


def test_options_of_audit_reach_the_flow(config_path: Path, audit_gives: Any) -> None:
    calls = audit_gives(False)
    options = ["--output", "there", "--set", "detection.max_removed=0.1", "--scheduler", "tcp://a:1"]
    assert run(["audit", str(config_path), *options]) == 0
    (given,) = calls
    changes = {"detection.max_removed": 0.1, "compute.scheduler": "tcp://a:1"}
    assert given[:3] == (str(config_path), changes, "there")


def test_changes_are_yaml() -> None:
    texts = ["a=3", "b.c=[1, 2]", "d=true", "e=a=b", "f=", "g=x: 1"]
    assert parse_changes(texts) == {"a": 3, "b.c": [1, 2], "d": True, "e": "a=b", "f": None, "g": {"x": 1}}


@pytest.mark.parametrize("text", ["a", "=3", "a=[1"])
def test_change_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_changes([text])
    assert text in caught.value.message


class TestInit:
    DATA = str(Path(__file__).parents[2] / "data_samples/digits/train")

    def test_written_config_can_be_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run(["init", self.DATA, "--output", "mine.yaml", "--validation-is-clean"]) == 0
        config = load_config("mine.yaml")
        assert config.data.label == "label"
        assert config.data.validation_is_clean
        shown = capsys.readouterr().out
        assert "1,200 rows" in shown
        assert "winnow check mine.yaml" in shown

    def test_file_that_is_there_is_not_overwritten(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("precious")
        assert run(["init", self.DATA, "--output", str(path)]) == 2
        assert path.read_text() == "precious"
        assert "exists already" in capsys.readouterr().err

    def test_config_that_cannot_be_written_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")
        assert run(["init", self.DATA, "--output", str(tmp_path / "file/mine.yaml")]) == 2
        assert "mine.yaml: can't be written to" in capsys.readouterr().err

    @pytest.mark.parametrize("answer", [True, False])
    def test_person_at_a_terminal_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bool
    ) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr(typer, "confirm", lambda *_, **__: answer)
        path = tmp_path / "mine.yaml"
        assert run(["init", self.DATA, "--output", str(path)]) == 0
        assert load_config(path).data.validation_is_clean == answer
