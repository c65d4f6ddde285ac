"""What a signal is, and the list of all signals: what they are called, how they are read, how they are computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.detection.columns import Column
from pipeline.detection.suspicion import SignalValues
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.detection.judges.label_sets import Pairs
    from pipeline.detection.noise.noise_estimate import NoiseEstimate
    from pipeline.detection.signals.evidence import Evidence, Judged

Values = np.ndarray | Column

REPEATED = re.compile(r"_\d+$")
"""What the name of a repeat's signal has more than the signal's own (`detection.repeats`)."""


@dataclass(frozen=True)
class OnTargets:
    """How a signal is read where the labels are numbers, if that differs."""

    words: str
    high_is_suspicious: bool


@dataclass(frozen=True)
class OnSets:
    """A signal of sets of labels: it has a value for every label, and a row takes that of its most suspicious label.

    values: pairs → float `[rows, labels]`, read in the signal's direction, or None where there are none.
    """

    words: str
    values: Callable[[Pairs], np.ndarray | None]


def whole(noise: NoiseEstimate | None) -> float:  # noqa: ARG001 - the signature of Signal.weight
    """The weight of most signals."""
    return 1.0


@dataclass(frozen=True)
class Signal:
    """One kind of evidence about every row.

    Attributes:
        name: its column in signals.parquet.
        label: what a long bar in the report says about a row.
        words: what the values are, after "how", "whether" or "what"; reports make a sentence of it.
        high_is_suspicious: its direction.
        counts: whether it is a part of the suspicion. With sets of labels only signals with `on_sets` are.
        of_training: evidence → float64 `[train rows]` as people read it, or None where this dataset or config gives
            none. None for a signal that the judges give.
        of_judges: the same from the judges of a role's rows: `[rows of the role]`. None for a signal of the training.
        on_targets: how it is read where the labels are numbers; None: likewise.
        on_sets: what it is with sets of labels; None: it stands beside the suspicion there.
        weight: estimated share of wrong labels, or None → how large a part of the suspicion it is.
    """

    name: str
    label: str
    words: str
    high_is_suspicious: bool
    counts: bool = False
    of_training: Callable[[Evidence], Values | None] | None = None
    of_judges: Callable[[Judged], Values | None] | None = None
    on_targets: OnTargets | None = None
    on_sets: OnSets | None = None
    weight: Callable[[NoiseEstimate | None], float] = whole

    def of(self, values: Values, numeric: bool = False) -> SignalValues:
        """The signal of some rows; numeric: whether their labels are numbers."""
        found = SignalValues(
            self.name, values, self.high_is_suspicious, self.words, self.counts, label=self.label
        )
        if not numeric or self.on_targets is None:
            return found
        read = self.on_targets
        return replace(found, words=read.words, high_is_suspicious=read.high_is_suspicious)


_SIGNALS: dict[str, Signal] = {}
_OWN: set[str] = set()


def register(signal: Signal) -> Signal:
    """Add a signal: every audit from now on has it where it gives values; after those that are there.

    Returns: the signal.

    Raises:
        InputError: the name is taken, or is no name of a column of its own; or nothing computes the signal.
    """
    if signal.name in _SIGNALS:
        raise InputError(f"signal {signal.name!r} is registered already", "Give the new signal another name.")
    if not signal.name.isidentifier() or signal.name == "row_key" or REPEATED.search(signal.name):
        raise InputError(
            f"{signal.name!r} can't be the name of a signal",
            "Use letters, digits and underscores; row_key and endings such as _2 have a meaning of their own.",
        )
    if (signal.of_training is None) == (signal.of_judges is None):
        raise InputError(
            f"signal {signal.name!r} needs one way to compute it", "Give either of_training or of_judges."
        )
    _SIGNALS[signal.name] = signal
    return signal


def added_signals() -> list[str]:
    """The names of the signals that were registered outside of this package."""
    return [name for name in _SIGNALS if name not in _OWN]


def end_of_own() -> None:
    """Called by the package once its own files have registered their signals."""
    _OWN.update(_SIGNALS)


def all_signals() -> list[Signal]:
    """In the order in which signals.parquet has them within their group (judges, counting, beside)."""
    return list(_SIGNALS.values())


def signal_of(name: str) -> Signal | None:
    """The signal of a column of signals.parquet, a repeat's too; None for a column that no signal has."""
    return _SIGNALS.get(name) or _SIGNALS.get(REPEATED.sub("", name))
