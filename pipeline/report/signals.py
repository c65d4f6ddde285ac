"""The signals of a run as the report shows them: by the record of the run, and by what is registered today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.detection.signals.registry import signal_of


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

    What earlier versions did not note is taken from the registered signal of the name.
    """
    names = [(name, True) for name in detect.get("signals", [])]
    names += [(name, False) for name in detect.get("other_signals", [])]
    return [shown(name, counts, detect) for name, counts in names]


def shown(name: str, counts: bool, detect: dict[str, Any]) -> ShownSignal:
    signal, spelt = signal_of(name), name.replace("_", " ")
    low = detect.get("low_is_suspicious")
    if low is not None:
        high_is_suspicious = name not in low
    else:
        high_is_suspicious = signal is None or signal.high_is_suspicious
    label = detect.get("signal_labels", {}).get(name) or (spelt if signal is None else signal.label)
    words = detect.get("words", {}).get(name) or (spelt if signal is None else signal.words)
    return ShownSignal(name, label, words, high_is_suspicious, counts)
