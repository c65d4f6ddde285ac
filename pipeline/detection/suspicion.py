"""Combines signals into one ranking: the weighted mean of their rank log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from pipeline.detection.columns import StoredColumn


@dataclass(frozen=True)
class SignalValues:
    """A signal with its values for the rows of a role.

    Attributes:
        name: its column in signals.parquet.
        values: float64 `[rows]`.
        high_is_suspicious: whether high values are suspicious, or low ones.
        words: what the values are.
        counts: whether it is part of the suspicion.
        weight: in the suspicion.
        label: what a long bar in the report means.
    """

    name: str
    values: np.ndarray | StoredColumn
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
    """logit((rank − ½) / rows), float64 `[rows]`; high values are suspicious, and equal values have their mean rank."""
    below = rankdata(values) - 0.5
    return np.log(below / (len(values) - below))


def suspicion(signals: Sequence[SignalValues]) -> np.ndarray:
    """The suspicion of each row, float64 `[rows]` in (0, 1): a ranking, not a probability.

    It is the logistic of the weighted mean rank log-odds over the signals that count, at least one.
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


def doubt_like_train(signals: Sequence[SignalValues], of_train: Sequence[SignalValues]) -> np.ndarray:
    """The weighted sum of the log-odds of the ranks that the values have among those of the train rows.

    Args:
        signals: of the rows of a role.
        of_train: signals of the train rows, those that count by the same names among them.

    Returns:
        float64 `[rows]`; for the train rows themselves the sum that `suspicion` has.
    """
    train = {signal.name: signal for signal in of_train}
    total = np.zeros(len(signals[0].values))
    for signal in signals:
        if signal.counts:
            ordered = np.sort(train[signal.name].suspicious)
            low, high = (np.searchsorted(ordered, signal.suspicious, side=side) for side in ("left", "right"))
            below = np.clip((low + high) / 2, 0.25, len(ordered) - 0.25)
            total += signal.weight * np.log(below / (len(ordered) - below))
    return total
