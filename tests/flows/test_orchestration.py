"""Prefect runs an audit where it is installed; without it the same command runs the audit directly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from digits_run import ROOT

import pipeline
from flows import orchestration
from flows.cli import run
from flows.orchestration import obstacle
from pipeline.errors import InputError, WinnowError
from pipeline.runs.watcher import Nobody

RUN_WITHOUT_PREFECT = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"prefect", "fastapi", "uvicorn"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
from flows.cli import run
statuses = [run(command) for command in json.loads(sys.argv[1])]
assert not {"prefect", "fastapi", "uvicorn"} & set(sys.modules)
sys.exit(json.dumps(statuses))
"""
DONE, WRONG = 0, 2
COMMANDS = [
    (["--help"], DONE),
    (["schedule", "--help"], DONE),
    (["version"], DONE),
    (["init", str(ROOT / "data_samples/digits/train"), "--output", "digits.yaml"], DONE),
    (["check", "nowhere.yaml"], WRONG),
    (["runs", "."], DONE),
    (["report", "nowhere"], WRONG),
    (["export", "nowhere"], WRONG),
    (["export", "nowhere", "--decisions", "mine.csv"], WRONG),
    (["review", "nowhere"], WRONG),
    (["review", "nowhere", "--apply"], WRONG),
    (["trace", "nowhere", "--queries", "rows.parquet"], WRONG),
    (["lds", "nowhere"], WRONG),
    (["compare", "nowhere", "nowhere"], WRONG),
]
TOOK = re.compile(r" +[\d.]+ s$", re.MULTILINE)


def test_commands_that_run_no_flow_do_not_import_prefect(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_PREFECT, json.dumps([command for command, _ in COMMANDS])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stderr.splitlines()[-1]) == [status for _, status in COMMANDS]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == sum(status != DONE for _, status in COMMANDS)


@pytest.fixture
def no_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestration, "obstacle", lambda: "prefect is not installed")
    monkeypatch.setattr(orchestration, "find_spec", lambda _: None)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.mark.parametrize(
    ("refused", "error", "status"),
    [(False, None, 0), (True, None, 3), (False, InputError("the label is null", "Drop it."), 2)],
)
@pytest.mark.usefixtures("prefect_api")
def test_without_prefect_an_audit_shows_the_same(
    config_path: Path,
    small_stages: Any,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    refused: bool,
    error: Exception | None,
    status: int,
) -> None:
    def audit() -> tuple[int, str, str]:
        small_stages.refused, small_stages.errors = refused, [error] if error else []
        found = run(["audit", str(config_path), "--output", "run"])
        shown = capsys.readouterr()
        return found, TOOK.sub("", shown.out), shown.err

    through_prefect = audit()
    Path("run").rename("before")
    request.getfixturevalue("no_prefect")
    assert audit() == through_prefect
    assert through_prefect[0] == status
    assert "✓ prepare" in through_prefect[1]
    assert through_prefect[2] == ("error: the label is null\n  Drop it.\n" if error else "")


@pytest.mark.usefixtures("small_stages")
def test_the_library_tells_a_watcher_about_stages(config_path: Path) -> None:
    class Notes(Nobody):
        heard: ClassVar[list[tuple[str, str]]] = []

        def begins(self, stage: str) -> None:
            self.heard.append(("begins", stage))

        def ends(self, stage: str, _facts: dict[str, Any], _seconds: float, before: bool) -> None:
            self.heard.append(("was done" if before else "ends", stage))

    pipeline.audit(config_path, output="run", watcher=Notes())
    names = ("prepare", "verify", "export", "report")
    assert Notes.heard == [(what, name) for name in names for what in ("begins", "ends")]
    pipeline.audit(config_path, output="run", watcher=Notes())
    assert Notes.heard[len(names) * 2 + 1 :: 2] == [("was done", name) for name in names]


@pytest.mark.usefixtures("no_prefect")
def test_a_stage_that_fails_without_prefect_is_not_tried_again(config_path: Path, small_stages: Any) -> None:
    small_stages.errors = [WinnowError("the disk is full")]
    assert run(["audit", str(config_path), "--output", "run"]) == 1
    assert small_stages.calls == ["prepare", "verify"]
    assert run(["audit", str(config_path), "--output", "run"]) == 0
    assert small_stages.calls == ["prepare", "verify", "verify", "export", "report"]


@pytest.mark.parametrize("asked", ["retries", "server", "other version"])
@pytest.mark.usefixtures("no_prefect", "small_stages")
def test_what_only_prefect_does_is_said_to_be_left_out(
    config_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--set", "orchestration.retries=5"] if asked == "retries" else []
    if asked == "server":
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    if asked == "other version":
        monkeypatch.setattr(orchestration, "find_spec", find_spec)
    assert run(["audit", str(config_path), *more]) == 0
    assert capsys.readouterr().err.startswith(
        "note: the audit runs without Prefect (prefect is not installed): "
    )


@pytest.mark.usefixtures("no_prefect")
def test_a_schedule_without_prefect_says_what_to_install(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedule", str(config_path), "--cron", "0 3 * * 1"]) == 2
    assert "pip install '.[flows]'" in capsys.readouterr().err


class TestObstacle:
    STATED = ("torch>=2.6", 'prefect<3.10,>=3.8; extra == "flows"', 'pytest>=9; extra == "dev"')

    @pytest.fixture(autouse=True)
    def stated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "requires", lambda _: list(self.STATED))

    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
        """The distributions that are there; the test fills it."""
        versions: dict[str, str] = {}

        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)
        return versions

    @pytest.mark.parametrize("version", ["3.8.0", "3.9.1"])
    def test_none_where_the_extra_is_installed(self, installed: dict[str, str], version: str) -> None:
        installed["prefect"] = version
        assert obstacle() is None

    @pytest.mark.usefixtures("installed")
    def test_prefect_that_is_not_there(self) -> None:
        assert obstacle() == "prefect is not installed"

    @pytest.mark.parametrize("version", ["2.20.27", "3.10.0"])
    def test_prefect_of_another_version(self, installed: dict[str, str], version: str) -> None:
        installed["prefect"] = version
        assert obstacle() == f"prefect {version} is installed, and winnow[flows] needs prefect<3.10,>=3.8"

    @pytest.mark.parametrize("version", ["3.8.8", None])
    def test_of_a_checkout_that_is_not_installed_prefect_decides(
        self, installed: dict[str, str], version: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def requires(name: str) -> None:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "requires", requires)
        if version is not None:
            installed["prefect"] = version
        assert (obstacle() is None) == (version is not None)
