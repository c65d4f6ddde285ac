"""Items that a row has or lacks (a token, a value of a column), and which of them go with a class or with its seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

LEAST_COUNT = 8
SINGLES = 40
PAIRED = 400
"""Pairs are made of at most so many items; tables rarely have more."""
PAIRS = 40
COMPLETING_SHARE = 0.7
COMPLETING_LIFT = 4.0

ItemSet = tuple[int, ...]


@dataclass(frozen=True)
class Occurrences:
    """Which rows have which items.

    Attributes:
        rows: of the searched rows, float32 0/1 `[rows, items]`.
        validation: of the validation rows of the target, float32 0/1 `[validation rows, items]`.
        own: bool `[rows]`, searched rows of the target.
        seeds: places of the target's suspect rows.
        ratio: searched rows per validation row.
    """

    rows: sparse.csr_matrix
    validation: sparse.csr_matrix
    own: np.ndarray
    seeds: np.ndarray
    ratio: float

    def best(self, count: Callable[[sparse.csr_matrix], np.ndarray], number: int) -> list[int]:
        """The candidates that are over-represented in the class, among its suspects, or against validation rows.

        Args:
            count: incidence → counts of the candidates, float64 `[candidates]`.
            number: how many candidates each of the three comparisons gives at most.
        """
        total, inside = count(self.rows), count(self.rows[self.own])
        among, seen = count(self.rows[self.seeds]), count(self.validation)
        rankings = (
            excess(inside, total, self.own.mean()),
            excess(among, len(self.seeds), total / len(self.own)),
            (inside - self.ratio * seen) / np.sqrt(inside + self.ratio**2 * (seen + 1)),
        )
        usable = inside >= LEAST_COUNT
        return list(dict.fromkeys(place for values in rankings for place in top(values, usable, number)))

    def only(self, items: list[int]) -> Occurrences:
        return replace(self, rows=self.rows[:, items], validation=self.validation[:, items])


def promising(occurrences: Occurrences) -> list[ItemSet]:
    """The over-represented items and pairs of items, which are worth a test by pasting."""
    singles = [(item,) for item in occurrences.best(_column_sums, SINGLES)]
    paired = occurrences.best(_column_sums, PAIRED)[:PAIRED]
    first, second = np.triu_indices(len(paired), 1)

    def together(incidence: sparse.csr_matrix) -> np.ndarray:
        return np.asarray((incidence.T @ incidence).todense(), dtype=np.float64)[first, second]

    if not len(first):
        return [*singles]
    pairs = occurrences.only(paired).best(together, PAIRS)
    return [*singles, *((paired[first[place]], paired[second[place]]) for place in pairs)]


def excess(count: np.ndarray, trials: np.ndarray | int, rate: np.ndarray | float) -> np.ndarray:
    """By how many standard deviations a count exceeds the mean of a binomial distribution."""
    mean = trials * np.asarray(rate, dtype=np.float64)
    return (count - mean) / np.sqrt(np.maximum(mean * (1 - rate), 1e-2))


def top(values: np.ndarray, usable: np.ndarray, count: int) -> list[int]:
    order = np.argsort(np.where(usable, -values, np.inf), kind="stable")[:count]
    return [int(place) for place in order if usable[place] and values[place] > 0]


def having(incidence: sparse.csr_matrix, items: ItemSet) -> np.ndarray:
    """The rows that have all of the items, bool `[rows]`."""
    return np.asarray(incidence[:, list(items)].sum(1)).ravel() == len(items)


def complete(incidence: sparse.csr_matrix, items: ItemSet, own: np.ndarray) -> ItemSet:
    """The items, and those further items that most of their carriers and few other rows have."""
    carriers = having(incidence, items) & own
    share = _column_sums(incidence[carriers]) / max(1, carriers.sum())
    elsewhere = _column_sums(incidence[~carriers]) / max(1, (~carriers).sum())
    more = np.flatnonzero((share >= COMPLETING_SHARE) & (share >= COMPLETING_LIFT * elsewhere))
    return tuple(sorted({*items, *more.tolist()}))


def _column_sums(incidence: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(incidence.sum(0), dtype=np.float64).ravel()
