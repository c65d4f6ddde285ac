"""Things that a row has or has not (a token, a column's value), and which go with a class or with seeds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import sparse

LEAST_COUNT = 5
SINGLES = 60
PAIRED = 120
PAIRS = 60
COMPLETING_SHARE = 0.7
COMPLETING_LIFT = 4.0

ItemSet = tuple[int, ...]


def promising(
    incidence: sparse.csr_matrix, labels: np.ndarray, target: int, seeds: np.ndarray
) -> list[ItemSet]:
    """Items and pairs that are worth pasting: over-represented in the class, or among its suspect rows.

    incidence: float32 0/1 `[rows, items]`; labels: int64 `[rows]`; seeds: places of the class's suspect rows.
    """
    own = labels == target
    total, inside = column_sums(incidence), column_sums(incidence[own])
    among = column_sums(incidence[seeds])
    by_class = excess(inside, total, own.mean())
    by_seeds = excess(among, len(seeds), total / len(labels))
    usable = inside >= LEAST_COUNT
    singles = union(top(by_class, usable, SINGLES), top(by_seeds, usable, SINGLES))
    paired = union(top(by_class, usable, PAIRED // 2), top(by_seeds, usable, PAIRED // 2))
    return [(item,) for item in singles] + promising_pairs(incidence[:, paired], paired, own, seeds)


def promising_pairs(
    incidence: sparse.csr_matrix, items: list[int], own: np.ndarray, seeds: np.ndarray
) -> list[ItemSet]:
    """The same for pairs; incidence: of these items alone."""
    pairs = list(combinations(range(len(items)), 2))
    if not pairs:
        return []
    first, second = np.array(pairs).T
    total, inside, among = (
        np.asarray((part.T @ part).todense())[first, second]
        for part in (incidence, incidence[own], incidence[seeds])
    )
    usable = inside >= LEAST_COUNT
    by_class = excess(inside, total, own.mean())
    by_seeds = excess(among, len(seeds), total / len(own))
    chosen = union(top(by_class, usable, PAIRS), top(by_seeds, usable, PAIRS))
    return [(items[first[place]], items[second[place]]) for place in chosen]


def excess(count: np.ndarray, trials: np.ndarray | int, rate: np.ndarray | float) -> np.ndarray:
    """Standard deviations by which a count exceeds a binomial's mean."""
    mean = trials * np.asarray(rate, dtype=np.float64)
    return (count - mean) / np.sqrt(np.maximum(mean * (1 - rate), 1e-2))


def top(values: np.ndarray, usable: np.ndarray, count: int) -> list[int]:
    order = np.argsort(np.where(usable, -values, np.inf), kind="stable")[:count]
    return [int(place) for place in order if usable[place] and values[place] > 0]


def union(one: list[int], two: list[int]) -> list[int]:
    return list(dict.fromkeys([*one, *two]))


def having(incidence: sparse.csr_matrix, items: ItemSet) -> np.ndarray:
    """bool `[rows]`: the rows that have all of the items."""
    return np.asarray(incidence[:, list(items)].sum(1)).ravel() == len(items)


def complete(incidence: sparse.csr_matrix, items: ItemSet, own: np.ndarray) -> ItemSet:
    """The items, with those that most of their carriers have and few other rows."""
    carriers = having(incidence, items) & own
    share = column_sums(incidence[carriers]) / max(1, carriers.sum())
    elsewhere = column_sums(incidence[~carriers]) / max(1, (~carriers).sum())
    more = np.flatnonzero((share >= COMPLETING_SHARE) & (share >= COMPLETING_LIFT * elsewhere))
    return tuple(sorted({*items, *more.tolist()}))


def column_sums(incidence: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(incidence.sum(0), dtype=np.float64).ravel()
