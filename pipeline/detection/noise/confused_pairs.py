"""Which labels were given instead of which: the number of wrong labels per pair (given → suggested).

With n rows of given label i, d the share of them for which the halves prefer j, v the same share of the validation rows
of label i and r the share of validation rows of label j for which they prefer j,

    rows of j that were labelled i = n · (d − v) / max(½, r − v), between 0 and n,

since the halves see j in a row of i at the rate v and in a row of j at the rate r. What they confuse of themselves is
subtracted; wrong labels that follow exactly that confusion, more often on train rows than on validation rows, are still
counted, and less often not. First order: that a wrong label of a third class is taken for j is left out.
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
    """given, suggested: classes; rows: for which the halves prefer the suggested label; estimated: rows that have it
    wrongly, with a 95 % sampling interval."""

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
    """The MOST_PAIRS pairs with the most wrong labels by the low end, of those whose estimate is a row or more.

    Classes, `[rows]` each; validation_best `[halves, rows]`. Pairs whose given or suggested class has no validation
    row are left out.
    """
    totals = np.bincount(labels, minlength=classes)
    references = np.bincount(validation_labels, minlength=classes)
    found = count_pairs(labels, best, classes)
    halves = len(validation_best)
    repeated, judged = np.tile(validation_labels, halves), validation_best.reshape(-1)
    usual = {pair: rows / halves for pair, rows in count_pairs(repeated, judged, classes).items()}
    right = np.bincount(repeated[repeated == judged], minlength=classes) / halves
    pairs = [
        estimate(pair, rows, totals, usual.get(pair, 0), references, right)
        for pair, rows in found.items()
        if references[pair[0]] and references[pair[1]]
    ]
    pairs = [pair for pair in pairs if pair.estimated >= 1]
    return sorted(pairs, key=lambda pair: (-pair.low, -pair.estimated, pair.given))[:MOST_PAIRS]


def count_pairs(labels: np.ndarray, best: np.ndarray, classes: int) -> dict[tuple[int, int], int]:
    other = labels != best
    codes, counts = np.unique(labels[other].astype(np.int64) * classes + best[other], return_counts=True)
    return {divmod(int(code), classes): int(count) for code, count in zip(codes, counts)}


def estimate(
    pair: tuple[int, int],
    rows: int,
    totals: Sequence[int] | np.ndarray,
    usual: float,
    references: Sequence[int] | np.ndarray,
    right: np.ndarray,
) -> Pair:
    """The module's formula; a share's variance takes it half a row away from 0, so that no count is certain."""
    given, suggested = pair
    n, m = int(totals[given]), int(references[given])
    expected = usual / m
    contrast = max(LEAST_CONTRAST, float(right[suggested]) / int(references[suggested]) - expected)
    value = n * min(1.0, max(0.0, (rows / n - expected) / contrast))
    spread = math.sqrt(variance(rows, n) + variance(usual, m))
    half_width = 1.96 * n * spread / contrast
    return Pair(
        given, suggested, rows, value, max(0.0, value - half_width), min(float(n), value + half_width)
    )


def variance(count: float, rows: int) -> float:
    """Of a share, by the rule of adding half a row to either side (Jeffreys)."""
    share = (count + 0.5) / (rows + 1)
    return share * (1 - share) / rows
