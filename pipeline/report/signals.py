"""The signals of a run as the report shows them, from the record of the run and from the registered signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ShownSignal:
    """A signal in the report.

    Attributes:
        name: its column in signals.parquet.
        label: what a long bar means.
        words: what the values are.
        high_is_suspicious: whether high values are suspicious, or low ones.
        counts: whether the signal is part of the suspicion.
    """

    name: str
    label: str
    words: str
    high_is_suspicious: bool
    counts: bool


def shown_signals(detect: dict[str, Any]) -> list[ShownSignal]:
    """The signals of a run; those that count come first.

    The record of earlier versions has no labels and directions; the registered signals give these.

    Args:
        detect: the facts of the stage `detect`.
    """
    names = [(name, True) for name in detect.get("signals", [])]
    names += [(name, False) for name in detect.get("other_signals", [])]
    words = detect.get("words", {})
    if {"signal_labels", "low_is_suspicious"} <= detect.keys():
        labels, low = detect["signal_labels"], detect["low_is_suspicious"]
    else:
        labels, low = _registered([name for name, _ in names])
    return [
        ShownSignal(
            name, labels.get(name, _spelt(name)), words.get(name, _spelt(name)), name not in low, counts
        )
        for name, counts in names
    ]


def _registered(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Name → label of the registered signals among `names`, and the names of those whose low values are suspicious."""
    from pipeline.detection.signals.registry import signal_of  # needs torch

    found = [signal for name in names if (signal := signal_of(name)) is not None]
    return {each.name: each.label for each in found}, [
        each.name for each in found if not each.high_is_suspicious
    ]


def _spelt(name: str) -> str:
    return name.replace("_", " ")
