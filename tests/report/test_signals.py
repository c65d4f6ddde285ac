"""How the report reads signals: by the record of the run, else by what is registered."""

from __future__ import annotations

from typing import Any

from pipeline.report.signals import ShownSignal, shown_signals

DETECT: dict[str, Any] = {
    "signals": ["early_loss"],
    "other_signals": ["panel_linear"],
    "words": {"early_loss": "the loss", "panel_linear": "how far its prediction is off"},
}


def test_the_record_says_how_a_signal_is_read() -> None:
    noted = DETECT | {"signal_labels": {"early_loss": "hard"}, "low_is_suspicious": []}
    assert shown_signals(noted) == [
        ShownSignal("early_loss", "hard", "the loss", True, True),
        ShownSignal("panel_linear", "panel linear", "how far its prediction is off", True, False),
    ]


def test_runs_of_earlier_versions_are_read_by_the_registered_signals() -> None:
    assert shown_signals(DETECT) == [
        ShownSignal("early_loss", "hard to learn", "the loss", True, True),
        ShownSignal("panel_linear", "linear model differs", "how far its prediction is off", False, False),
    ]
    assert shown_signals({"signals": ["old_one"]}) == [
        ShownSignal("old_one", "old one", "old one", True, True)
    ]
    assert shown_signals({}) == []
