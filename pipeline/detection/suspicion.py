"""Signals to one ranking: the weighted mean of their rank log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from pipeline.detection.columns import Column


@dataclass(frozen=True)
class SignalValues:
    """One piece of evidence about the rows of a role.

    name: its column in signals.parquet; values: float64 `[rows]` as people read it; high_is_suspicious: its direction;
    words: what it is, label: what a high bar of it says; counts: whether it is a part of the suspicion, and weight how
    large a part.
    """

    name: str
    values: np.ndarray | Column
    high_is_suspicious: bool
    words: str = ""
    counts: bool = True
    weight: float = 1.0
    label: str = ""

    @property
    def suspicious(self) -> np.ndarray:
        values = np.asarray(self.values)
        return values if self.high_is_suspicious else -values


def rank_log_odds(values: np.ndarray) -> np.ndarray:
    """logit((rank − ½) / rows), float64 `[rows]`, high = suspicious; equal values have their mean rank."""
    below = rankdata(values) - 0.5
    return np.log(below / (len(values) - below))


def suspicion(signals: Sequence[SignalValues]) -> np.ndarray:
    """float64 `[rows]` in (0, 1): the logistic of the weighted mean rank log-odds. A ranking, not a probability.

    The mean is over the signals that count; there has to be one.
    """
    counted = [signal for signal in signals if signal.counts]
    total = np.zeros(len(counted[0].values))
    for signal in counted:
        odds = rank_log_odds(signal.suspicious)
        total += np.multiply(odds, signal.weight, out=odds)
    np.negative(total, out=total)
    total /= sum(signal.weight for signal in counted)
    np.exp(total, out=total)
    total += 1
    return np.divide(1, total, out=total)
