"""Signals for sets of labels: values for every label of every row, and for a row those of its most suspicious label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipeline.detection.judges.label_sets import Pairs
from pipeline.detection.signals.collect import computed, signals_beside, signals_of_judges, stored
from pipeline.detection.signals.evidence import Evidence, Judged
from pipeline.detection.signals.registry import OnSets, Signal, all_signals
from pipeline.detection.suspicion import SignalValues, rank_log_odds


def _pair_signals(pairs: Pairs) -> Iterator[tuple[Signal, OnSets, np.ndarray]]:
    """Yield the counting signals with their values `[rows, labels]`: first those of the training, then the judges'."""
    for signal in sorted(all_signals(), key=lambda each: each.of_training is None):
        if signal.on_sets is not None:
            values = signal.on_sets.values(pairs)
            if values is not None:
                yield signal, signal.on_sets, values


def pair_suspicion(pairs: Pairs) -> np.ndarray:
    """The suspicion of each pair, float64 `[rows, labels]` in (0, 1): the logistic of its mean rank log-odds."""
    odds = []
    for signal, _, values in _pair_signals(pairs):
        suspicious = values if signal.high_is_suspicious else -values
        odds.append(rank_log_odds(np.ascontiguousarray(suspicious).reshape(-1)))
    return (1 / (1 + np.exp(-np.mean(odds, axis=0)))).reshape(pairs.given.shape)


def row_signals(pairs: Pairs, worst: np.ndarray) -> list[SignalValues]:
    """The counting signals with the values of each row's most suspicious label, `worst` (int64 `[rows]`)."""
    return [
        replace(signal.of(_of_worst(values, worst)), words=on_sets.words)
        for signal, on_sets, values in _pair_signals(pairs)
    ]


def _of_worst(values: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """The value of each row's label `worst` in an array `[rows, labels]`, float64 `[rows]`."""
    return np.take_along_axis(values, worst[:, None], 1)[:, 0].astype(np.float64)


def signals_of_sets(
    evidence: Evidence, judged: Judged | None, pairs: Pairs, worst: np.ndarray
) -> list[SignalValues]:
    """All signals for sets of labels, with values on disk; `judged` is None without a panel."""
    counting = [stored(evidence.path, each) for each in row_signals(pairs, worst)]
    of_rows = [each for each in all_signals() if each.counts and each.on_sets is None]
    beside = [replace(each, counts=False) for each in computed(evidence, of_rows)]
    if judged is not None:
        beside += [stored(evidence.path, each) for each in signals_of_judges(judged)]
    return [*counting, *beside, *signals_beside(evidence)]
