"""What a person sees of an audit, on a terminal and in a log file."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows import terminal as module
from flows.stage_summaries import sentence
from flows.terminal import Running, Terminal
from pipeline.stages.stages import STAGES

FACTS: dict[str, dict[str, Any]] = {
    "prepare": {"rows": {"train": 32960, "validation": 4120, "holdout": 0}},
    "train": {"epochs": 12, "checkpoints": 6, "metric": "accuracy", "validation_metric": 0.831},
    "factors": {"checkpoints": 6, "layers": 14, "coverage": {"share": 0.994}},
    "attribute": {"rows": 32960},
    "panel": {"judges": [{"counts": True}, {"counts": True}, {"counts": False}], "folds": 5},
    "detect": {"likely_wrong": 120, "review": 150, "caps": None},
    "verify": {"retrainings": 15, "verdict": "improved"},
    "export": {"refused": False, "rows_kept": 1080, "rows_removed": 120, "rows_relabelled": 0},
    "report": {"page": "report/index.html"},
}


TRIAL = {
    "model": "table",
    "epochs": 12,
    "learning_rate": 0.01,
    "tried": [{"model": "table", "learning_rate": 0.01, "epochs": 12, "loss": 0.372}],
}


def make_terminal(is_terminal: bool) -> tuple[Terminal, io.StringIO]:
    written = io.StringIO()
    return Terminal(Console(file=written, force_terminal=is_terminal, width=100, highlight=False)), written


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("prepare", {}, "37,080 rows → 32,960 train, 4,120 validation"),
        ("train", {}, "12 epochs, 6 checkpoints, validation accuracy 83.1 %"),
        ("train", {"validation_metric": None, "epochs": 1}, "1 epoch, 6 checkpoints"),
        (
            "train",
            {"trial": TRIAL},
            "table, 12 epochs at 0.01 (held-out loss 0.372), validation accuracy 83.1 %",
        ),
        ("factors", {}, "6 checkpoints × 14 layers, 99 % of the parameters"),
        ("attribute", {}, "32,960 rows scored"),
        ("panel", {}, "3 judges, each over 5 folds, 1 left out as clearly worse"),
        ("panel", {"judges": []}, "not asked for"),
        ("detect", {}, "120 rows look wrong, 30 more to look at"),
        (
            "detect",
            {"promise": {"rule": "trusted"}, "removed": 40, "relabelled": 0, "to_review": 110},
            "rule trusted takes out 40 rows, 110 to look at",
        ),
        ("detect", {"caps": "9 rows are left"}, "120 rows look wrong, 30 more to look at; 9 rows are left"),
        ("verify", {}, "15 retrainings: improved"),
        ("verify", {"retrainings": 0}, "not tested: no retrainings"),
        ("export", {}, "1,080 rows kept, 120 removed"),
        ("export", {"rows_relabelled": 7}, "1,080 rows kept, 120 removed, 7 relabelled"),
        (
            "export",
            {"refused": True, "verdict": "worse"},
            "refused (verdict: worse), nothing was written",
        ),
        ("report", {}, "report/index.html"),
    ],
)
def test_facts_become_a_sentence(stage: str, changes: dict[str, Any], said: str) -> None:
    assert sentence(stage, FACTS[stage] | changes) == said


def test_every_stage_has_a_sentence() -> None:
    assert {stage.name for stage in STAGES} == set(FACTS)


def test_log_file_gets_finished_lines_without_control_codes() -> None:
    terminal, written = make_terminal(False)
    with terminal:
        for name, facts in FACTS.items():
            terminal.begins(name)
            for done in range(100):
                terminal.progress(name, done, 100, "rows")
            terminal.ends(name, facts, 124.0, before=name == "prepare")
    lines = written.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["✓", name] for name in FACTS]
    assert lines[0] == "✓ prepare     (done before)"
    assert lines[1].endswith("83.1 %" + " " * (len(lines[1]) - lines[1].index("%") - 7) + "2m 04s")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", written.getvalue())


def test_terminal_shows_a_bar_and_takes_it_away() -> None:
    terminal, written = make_terminal(True)
    with terminal:
        terminal.begins("attribute")
        terminal.progress("attribute", 21504, 32960, "rows")
        terminal._live.refresh()  # type: ignore[union-attr]
        assert "21,504 of 32,960 rows" in written.getvalue()
        terminal.ends("attribute", FACTS["attribute"], 3.0, before=False)
    last = written.getvalue().splitlines()[-1]
    assert "✓ attribute   32,960 rows scored" in last


def test_bar_of_an_unfinished_stage_is_taken_away_in_the_end() -> None:
    terminal, written = make_terminal(True)
    with terminal:
        terminal.begins("train")
    assert terminal._live is None
    assert "\x1b[?25h" in written.getvalue(), "the cursor is shown again"


def test_failure_that_is_tried_again_is_told_in_one_line() -> None:
    terminal, written = make_terminal(False)
    terminal.fails("verify", RuntimeError("a worker died\nand more"))
    assert written.getvalue() == "! verify      a worker died; trying again\n"


def test_speed_leaves_out_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    running = Running("attribute")
    running.update("attribute", 1000, 3000, "rows")
    clock.now += 10
    running.update("attribute", 2000, 3000, "rows")
    assert running.numbers() == "2,000 of 3,000 rows · 100 rows/s · 10 s left"


def test_new_piece_of_work_begins_anew_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    running = Running("prepare")
    running.update("validate", 0, 10, "rows")
    clock.now += 50
    running.update("encode", 0, 10, "rows")
    clock.now += 4
    running.update("encode", 2, 10, "rows")
    assert running.numbers() == "encode · 2 of 10 rows · 16 s left"


def test_interruption_says_where_it_was() -> None:
    terminal, _ = make_terminal(False)
    assert terminal.stopped() == "stopped. The same command goes on from here."
    terminal.begins("train")
    assert terminal.stopped() == "stopped in train. The same command goes on from here."
    terminal.progress("train", 3, 12, "epochs")
    said = "stopped in train, 3 of 12 epochs done. The same command goes on from here."
    assert terminal.stopped() == said


def test_interruption_takes_the_bar_away() -> None:
    terminal, written = make_terminal(True)
    terminal.begins("train")
    terminal.stopped()
    assert terminal._live is None
    assert written.getvalue().endswith("\x1b[2K"), "the bar's line is cleared"


def test_box_holds_lines_as_they_are() -> None:
    terminal, written = make_terminal(False)
    terminal.box("small / 2026", ["IMPROVED: [bold]no markup[/bold]", "", "second"])
    assert "small / 2026" in written.getvalue()
    assert "IMPROVED: [bold]no markup[/bold]" in written.getvalue()
