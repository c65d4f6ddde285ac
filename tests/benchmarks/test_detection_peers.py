"""kNN-Shapley against the definition of the Shapley value."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from benchmarks.detection_peers import knn_shapley


def utility(chosen: tuple[int, ...], order: np.ndarray, hit: np.ndarray, neighbours: int) -> float:
    """Share of right votes among the nearest chosen rows, mean over queries; missing votes count as wrong."""
    of_queries = []
    for query in range(len(order)):
        nearest = [row for row in order[query] if row in chosen][:neighbours]
        of_queries.append(sum(hit[query, row] for row in nearest) / neighbours)
    return float(np.mean(of_queries))


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_knn_shapley_is_the_shapley_value(neighbours: int) -> None:
    random = np.random.RandomState(neighbours)
    rows, queries = 6, 3
    order = np.stack([random.permutation(rows) for _ in range(queries)])
    labels, wanted = random.randint(0, 2, rows), random.randint(0, 2, queries)
    hit = (labels[None] == wanted[:, None]).astype(float)
    expected = np.zeros(rows)
    for row in range(rows):
        others = [other for other in range(rows) if other != row]
        for size in range(rows):
            for chosen in combinations(others, size):
                gain = utility((*chosen, row), order, hit, neighbours) - utility(
                    chosen, order, hit, neighbours
                )
                expected[row] += gain / (rows * comb(rows - 1, size))
    assert knn_shapley(order, labels, wanted, neighbours) == pytest.approx(expected)
