"""`winnow review` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from review_run import fill, make_run, read_sheet

from flows.cli import run


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(make_run(tmp_path).path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert run(["review", *arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_a_review_from_the_first_sheet_to_the_last(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Up to" in said(capsys, path)
    out = said(capsys, path, "--sample", "57", "--sheet", "one.csv")
    assert out.splitlines() == [
        "Wrote one.csv: 57 rows. Write wrong, right or unsure into the column verdict.",
        f"Next: winnow review {path} --answers one.csv",
    ]
    out = said(capsys, path, "--answers", str(fill(Path("one.csv"))))
    assert "At least 80 % (confidence 95 %) of the" in out
    assert f"winnow review {path} --apply" in out
    assert f"winnow review {path} --sample" in out
    said(capsys, path, "--sample", "500", "--sheet", "two.csv")
    out = said(capsys, path, "--answers", str(fill(Path("two.csv"))))
    assert "the tests end at the first that fails" in out
    assert "Nothing is left to ask" in said(capsys, path, "--sample", "5")
    state = json.loads(said(capsys, path, "--json"))
    assert state["shown"] >= 57
    assert state["open"] == 0


def test_what_is_wrong_is_said_with_status_2(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sample goes alone" in said(capsys, path, "--sample", "5", "--apply", status=2)
    assert "there are no answers yet" in said(capsys, path, "--apply", status=2)
    assert "not a run directory" in said(capsys, "nowhere", "--sample", "5", status=2)
    said(capsys, path, "--sample", "5", "--sheet", "s.csv")
    lines = read_sheet(Path("s.csv"))
    bad = fill(Path("s.csv"), lambda line: "maybe" if line["row_key"] == lines[1]["row_key"] else "wrong")
    found = said(capsys, path, "--answers", str(bad), status=2)
    assert f"s.csv, line 3: unknown verdict 'maybe' for row {lines[1]['row_key']!r}" in found


def test_apply_audits_the_same_run_by_the_answers(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    result = SimpleNamespace(summary={}, run=SimpleNamespace(path=Path(path)), refused=True)
    monkeypatch.setattr("flows.audit.run_audit", lambda *given: calls.append(given) or result)
    said(capsys, path, "--sample", "57", "--sheet", "s.csv")
    assert run(["review", path, "--answers", str(fill(Path("s.csv"))), "--apply", "--json"]) == 3
    config, changes, output, *_ = calls[0]
    assert (config, output) == (f"{path}/config.yaml", path)
    assert changes["detection.rule"] == "reviewed"
    assert changes["detection.answers"] == f"{path}/review/answers.parquet"
