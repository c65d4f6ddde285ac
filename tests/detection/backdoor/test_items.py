from __future__ import annotations

import numpy as np
from scipy import sparse

from pipeline.detection.backdoor.item_sets import Occurrences, complete, excess, having, promising

ROWS = 1000
OWN = np.arange(ROWS) < 700


def occurrences(rows: np.ndarray, validation: np.ndarray, seeds: list[int] | None = None) -> Occurrences:
    """rows, validation: 0/1 `[rows, items]`."""
    incidence = sparse.csr_matrix(rows.astype(np.float32))
    seen = sparse.csr_matrix(validation.astype(np.float32))
    return Occurrences(incidence, seen, OWN, np.array(seeds or [999]), ROWS / 200)


def random_items(rows: int, items: int = 80) -> np.ndarray:
    return np.random.RandomState(rows).random_sample((rows, items)) < 0.2


def test_a_pair_that_validation_rows_lack_is_promising_though_the_class_is_the_most_frequent() -> None:
    rows, validation = random_items(ROWS), random_items(140)
    rows[:, :2] = validation[:, :2] = False
    rows[:40, :2] = True
    rows[300:350, 0] = rows[400:450, 1] = True
    validation[:10, 0] = validation[20:30, 1] = True
    assert (0, 1) in promising(occurrences(rows, validation))


def test_what_suspects_share_is_promising() -> None:
    rows = random_items(ROWS)
    rows[:, 3] = False
    rows[np.r_[0:10, 100:110, 800:810], 3] = True
    assert (3,) in promising(occurrences(rows, rows[:140], seeds=list(range(10))))


def test_what_is_too_rare_is_left_out() -> None:
    rows = np.zeros((ROWS, 2), dtype=bool)
    rows[:7, 0] = rows[:8, 1] = True
    assert promising(occurrences(rows, rows[:0], seeds=[0, 1, 2])) == [(1,)]


def test_a_set_is_completed_by_what_its_carriers_share_and_others_lack() -> None:
    rows = np.zeros((ROWS, 4), dtype=bool)
    rows[:20, :3] = True
    rows[::2, 2] = True
    rows[:16, 3] = True
    incidence = sparse.csr_matrix(rows.astype(np.float32))
    assert complete(incidence, (0,), OWN) == (0, 1, 3)
    assert having(incidence, (0, 3)).tolist() == [row < 16 for row in range(ROWS)]


def test_excess_is_in_standard_deviations_of_a_binomial() -> None:
    assert excess(np.array([60.0]), 100, 0.5) == 2.0
