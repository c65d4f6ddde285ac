"""The registry of signals: their names, labels, directions and functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.detection.columns import StoredColumn
from pipeline.detection.suspicion import SignalValues
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.detection.judges.label_sets import Pairs
    from pipeline.detection.noise.noise_estimate import NoiseEstimate
    from pipeline.detection.signals.evidence import Evidence, Judged

Values = np.ndarray | StoredColumn

REPEATED = re.compile(r"_\d+$")
"""The suffix in the name of a repeat's signal (`detection.repeats`)."""


@dataclass(frozen=True)
class OnTargets:
    """The words and the direction of a signal for numeric labels, if they differ."""

    words: str
    high_is_suspicious: bool


@dataclass(frozen=True)
class OnSets:
    """A signal for sets of labels: it has a value for every label, and a row gets that of its most suspicious label.

    Attributes:
        words: what the values are.
        values: pairs → float `[rows, labels]`, in the direction of the signal, or None.
    """

    words: str
    values: Callable[[Pairs], np.ndarray | None]


def whole(noise: NoiseEstimate | None) -> float:  # noqa: ARG001 - the signature of Signal.weight
    """The weight 1, which most signals have."""
    return 1.0


@dataclass(frozen=True)
class Signal:
    """One kind of evidence about every row.

    Attributes:
        name: its column in signals.parquet.
        label: what a long bar in the report means.
        words: what the values are; a clause that begins with "how", "whether" or "what".
        high_is_suspicious: whether high values are suspicious, or low ones.
        counts: whether it is part of the suspicion. For sets of labels, only signals with `on_sets` are.
        of_training: evidence → float64 `[train rows]`, or None if the data or the config has no such values. None for a
            signal of the judges.
        of_judges: judges of a role → float64 `[rows of the role]`, or None. None for a signal of the training.
        on_targets: words and direction for numeric labels; None if they are the same.
        on_sets: the signal for sets of labels; None if it is not part of the suspicion there.
        weight: estimated share of wrong labels (or None) → weight in the suspicion.
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
        """The signal with the values of some rows; `numeric` tells whether their labels are numbers."""
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
    """Add a signal after the existing ones; all later audits compute it.

    Returns:
        The signal.

    Raises:
        InputError: the name is taken or not allowed, or the signal has no function or two.
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
    """The names of the signals that code outside of this package has registered."""
    return [name for name in _SIGNALS if name not in _OWN]


def end_of_own() -> None:
    """Note that the files of the package have registered their signals; later ones come from outside."""
    _OWN.update(_SIGNALS)


def all_signals() -> list[Signal]:
    """All signals; within each group (judges, counting, others) in the order of signals.parquet."""
    return list(_SIGNALS.values())


def signal_of(name: str) -> Signal | None:
    """The signal of a column of signals.parquet, also of a repeat's column; None for an unknown column."""
    return _SIGNALS.get(name) or _SIGNALS.get(REPEATED.sub("", name))
