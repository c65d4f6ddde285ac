"""Computes the signals of an audit: all registered signals that have values for its data and config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.detection.columns import StoredColumn, columns_directory
from pipeline.detection.signals.evidence import Evidence, Judged
from pipeline.detection.signals.registry import Signal, all_signals
from pipeline.detection.suspicion import SignalValues
from pipeline.errors import InputError


def signals_of_training(evidence: Evidence) -> list[SignalValues]:
    """All signals of the training; those that count come first. Their values lie on disk."""
    return [*counting_signals(evidence), *signals_beside(evidence)]


def counting_signals(evidence: Evidence) -> list[SignalValues]:
    """The signals of the training that are part of the suspicion."""
    return list(computed(evidence, [each for each in all_signals() if each.counts]))


def signals_beside(evidence: Evidence) -> list[SignalValues]:
    """The other signals of the training: they add nothing to the suspicion, or show other faults than wrong labels."""
    return list(computed(evidence, [each for each in all_signals() if not each.counts]))


def signals_of_judges(judged: Judged) -> Iterator[SignalValues]:
    """The signals of the judges for the rows of a role; those that count come first."""
    for signal in sorted(all_signals(), key=lambda each: not each.counts):
        values = None if signal.of_judges is None else signal.of_judges(judged)
        if values is not None:
            yield signal.of(values, numeric=judged.deviation is not None)


def stored(run_path: Path, signal: SignalValues) -> SignalValues:
    """Write the values of a signal to disk; returns the signal with its values as a column on disk."""
    values = np.asarray(signal.values)
    path = columns_directory(run_path) / signal.name
    return replace(signal, values=StoredColumn.write(path, len(values), [values]))


def computed(evidence: Evidence, signals: list[Signal]) -> Iterator[SignalValues]:
    """Compute signals one at a time; signals without values here are left out. The values lie on disk.

    Raises:
        InputError: a signal does not give one number for every train row.
    """
    rows = evidence.data.count("train")
    for signal in signals:
        values = None if signal.of_training is None else signal.of_training(evidence)
        if values is not None:
            numbers = np.asarray(values)
            if numbers.shape != (rows,) or numbers.dtype.kind not in "iuf":
                raise InputError(
                    f"signal {signal.name!r} gives {numbers.dtype} {list(numbers.shape)} for {rows} train rows",
                    "of_training has to give one number for every row.",
                )
            yield stored(evidence.path, signal.of(values, numeric=evidence.task == "regression"))
