"""Estimates the number of wrong labels for each pair (given → suggested).

Let n be the train rows with label i, d the share of them for which the halves prefer j, v the same share among the
validation rows with label i, and r the share of validation rows with label j for which the halves prefer j. Then

    rows of j that were labelled i = n · (d − v) / max(½, r − v), between 0 and n,

because the halves prefer j for a row of i at the rate v, and for a row of j at the rate r. The confusion of the halves
themselves is subtracted. Wrong labels that follow this confusion count only as far as they are more frequent on train
rows than the confusion on validation rows. The formula is of first order: it neglects wrong labels of a third class
that are taken for j.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_PAIRS = 10
LEAST_CONTRAST = 0.5


@dataclass(frozen=True)
class Pair:
    """A pair of confused classes.

    Attributes:
        given, suggested: classes.
        rows: how many rows with the given label get the suggestion.
        estimated, low, high: estimated number of rows with this wrong label, with a 95 % sampling interval.
    """

    given: int
    suggested: int
    rows: int
    estimated: float
    low: float
    high: float


def confused_pairs(
    labels: np.ndarray,
    best: np.ndarray,
    validation_labels: np.ndarray,
    validation_best: np.ndarray,
    classes: int,
) -> list[Pair]:
    """The MOST_PAIRS pairs with the most wrong labels by the low end of the interval.

    Pairs with an estimate below 1 row, or with a class that has no validation rows, are left out.

    Args:
        labels: given classes, `[train rows]`.
        best: classes that the halves prefer, `[train rows]`.
        validation_labels: given classes, `[validation rows]`.
        validation_best: classes that each half prefers, `[halves, validation rows]`.
        classes: how many there are.
    """
    totals = np.bincount(labels, minlength=classes)
    references = np.bincount(validation_labels, minlength=classes)
    found = _count_pairs(labels, best, classes)
    halves = len(validation_best)
    repeated, judged = np.tile(validation_labels, halves), validation_best.reshape(-1)
    usual = {pair: rows / halves for pair, rows in _count_pairs(repeated, judged, classes).items()}
    right = np.bincount(repeated[repeated == judged], minlength=classes) / halves
    pairs = [
        _estimate(pair, rows, totals, usual.get(pair, 0), references, right)
        for pair, rows in found.items()
        if references[pair[0]] and references[pair[1]]
    ]
    pairs = [pair for pair in pairs if pair.estimated >= 1]
    return sorted(pairs, key=lambda pair: (-pair.low, -pair.estimated, pair.given))[:MOST_PAIRS]


def _count_pairs(labels: np.ndarray, best: np.ndarray, classes: int) -> dict[tuple[int, int], int]:
    other = labels != best
    codes, counts = np.unique(labels[other].astype(np.int64) * classes + best[other], return_counts=True)
    return {divmod(int(code), classes): int(count) for code, count in zip(codes, counts)}


def _estimate(
    pair: tuple[int, int],
    rows: int,
    totals: Sequence[int] | np.ndarray,
    usual: float,
    references: Sequence[int] | np.ndarray,
    right: np.ndarray,
) -> Pair:
    """The formula of the module docstring; `_variance` adds half a row to each share, so that no count is certain."""
    given, suggested = pair
    n, m = int(totals[given]), int(references[given])
    expected = usual / m
    contrast = max(LEAST_CONTRAST, float(right[suggested]) / int(references[suggested]) - expected)
    value = n * min(1.0, max(0.0, (rows / n - expected) / contrast))
    spread = math.sqrt(_variance(rows, n) + _variance(usual, m))
    half_width = 1.96 * n * spread / contrast
    return Pair(
        given, suggested, rows, value, max(0.0, value - half_width), min(float(n), value + half_width)
    )


def _variance(count: float, rows: int) -> float:
    """The variance of the share count/rows after half a row is added to either side (Jeffreys)."""
    share = (count + 0.5) / (rows + 1)
    return share * (1 - share) / rows
