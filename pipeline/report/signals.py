"""The signals of a run as the report shows them: by the record of the run, and by what is registered today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ShownSignal:
    """name: its column in signals.parquet; label: what a long bar says; words: what it is; counts: whether it is a part
    of the suspicion."""

    name: str
    label: str
    words: str
    high_is_suspicious: bool
    counts: bool


def shown_signals(detect: dict[str, Any]) -> list[ShownSignal]:
    """The signals of a run, those that count first; detect: what the stage noted in the record.

    Labels and directions, which earlier versions did not note, are taken from the registered signals.
    """
    names = [(name, True) for name in detect.get("signals", [])]
    names += [(name, False) for name in detect.get("other_signals", [])]
    words = detect.get("words", {})
    if {"signal_labels", "low_is_suspicious"} <= detect.keys():
        labels, low = detect["signal_labels"], detect["low_is_suspicious"]
    else:
        labels, low = registered([name for name, _ in names])
    return [
        ShownSignal(
            name, labels.get(name, spelt(name)), words.get(name, spelt(name)), name not in low, counts
        )
        for name, counts in names
    ]


def registered(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """The labels of those signals that are registered today, and the names of those of which low is suspicious."""
    from pipeline.detection.signals.registry import signal_of  # needs torch

    found = [signal for name in names if (signal := signal_of(name)) is not None]
    return {each.name: each.label for each in found}, [
        each.name for each in found if not each.high_is_suspicious
    ]


def spelt(name: str) -> str:
    return name.replace("_", " ")
