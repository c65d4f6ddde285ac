"""Flips of labels, found from judges that are calibrated on flipped labels: held against drawn truth."""

from __future__ import annotations

import numpy as np
import pytest
from flipped_labels import Simulated, in_pairs, one_sided, simulate, uniform
from sklearn.metrics import average_precision_score

from pipeline.detection.noise.label_flips import (
    TINY,
    chances,
    estimate_flips,
    flip_matrix,
    limit,
    right_label,
    sharpened,
    shrunk,
    wrong_label,
)
from pipeline.panel.opinions import panel_margin

MATRICES = {
    "uniform, two classes": uniform(2, 0.2),
    "uniform, five classes": uniform(5, 0.2),
    "pairs": in_pairs(4, 0.2),
    "one-sided": one_sided(0.3),
}


def wrong_in(drawn: Simulated) -> np.ndarray:
    flips = estimate_flips(drawn.seen, drawn.given)
    return wrong_label(right_label(drawn.seen, drawn.given, flips), drawn.given)


@pytest.mark.parametrize("name", MATRICES)
def test_the_flips_are_found(name: str) -> None:
    drawn = simulate(0, 6000, MATRICES[name])
    flips = estimate_flips(drawn.seen, drawn.given)
    assert np.abs(flips.matrix - drawn.matrix).max() < 0.06
    assert flips.matrix.sum(1) == pytest.approx(1)
    assert wrong_in(drawn).mean() == pytest.approx(drawn.wrong.mean(), abs=0.05)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_file_without_wrong_labels_has_hardly_any(classes: int) -> None:
    drawn = simulate(1, 4000, np.eye(classes))
    assert wrong_in(drawn).mean() < 0.01


@pytest.mark.parametrize("name", ["one-sided", "pairs"])
def test_flips_that_go_one_way_rank_rows_better_than_the_margin(name: str) -> None:
    drawn = simulate(2, 4000, MATRICES[name])
    by_margin = average_precision_score(drawn.wrong, -panel_margin(drawn.seen, drawn.given))
    assert average_precision_score(drawn.wrong, wrong_in(drawn)) > by_margin + 0.1


@pytest.mark.parametrize("name", MATRICES)
def test_chances_of_right_labels_are_calibrated(name: str) -> None:
    drawn = simulate(3, 6000, MATRICES[name])
    posterior = right_label(drawn.seen, drawn.given, estimate_flips(drawn.seen, drawn.given))
    assert posterior.sum(1) == pytest.approx(1, abs=1e-5)
    said, true = posterior.max(1).astype(np.float64), posterior.argmax(1) == drawn.right
    places = np.minimum((said * 10).astype(int), 9)
    error = sum(abs((said - true)[places == place].sum()) for place in range(10)) / len(said)
    assert error < 0.04


def test_with_known_flips_the_chances_are_exact() -> None:
    drawn = simulate(4, 500, in_pairs(4, 0.3))
    assert chances(drawn.seen, drawn.matrix) == pytest.approx(drawn.chances, abs=1e-3)
    oracle = drawn.chances * drawn.matrix[:, drawn.given].T
    oracle /= oracle.sum(1, keepdims=True)
    flips = estimate_flips(drawn.seen, drawn.given)
    found = right_label(drawn.seen, drawn.given, type(flips)(drawn.matrix, 1.0))
    assert found == pytest.approx(oracle, abs=5e-3)


def test_judges_that_are_less_sure_than_they_could_be_are_sharpened() -> None:
    drawn = simulate(5, 4000, uniform(3, 0.1))
    matrix = drawn.matrix
    shy = sharpened(drawn.chances, 2.0) @ matrix
    assert estimate_flips(shy, drawn.given).temperature < 0.7
    assert estimate_flips(drawn.seen, drawn.given).temperature == pytest.approx(1, abs=0.15)


def test_the_limit_is_where_a_line_meets_the_surest_row() -> None:
    rows = 2000
    rng = np.random.default_rng(0)
    wrong = rng.uniform(size=rows) < 0.1 + 0.3 * (np.arange(rows) + 0.5) / rows
    assert limit(np.where(wrong, 1, 0), 2) == pytest.approx([0.9, 0.1], abs=0.04)
    assert limit(np.zeros(30, dtype=np.int64), 3) == pytest.approx([1, 0, 0])


def test_a_class_that_hardly_a_row_is_taken_for_has_the_mean_of_the_others() -> None:
    drawn = simulate(6, 4000, uniform(4, 0.2))
    kept = (drawn.seen.argmax(1) != 3) | (np.cumsum(drawn.seen.argmax(1) == 3) <= 5)
    matrix = flip_matrix(drawn.seen[kept], drawn.given[kept])
    others = 1 - np.diag(matrix)[:3]
    assert others.min() - 1e-9 <= 1 - matrix[3, 3] <= others.max() + 1e-9


def test_flips_without_a_known_class_are_none() -> None:
    assert shrunk(np.eye(3), np.eye(3), np.zeros(3)) == pytest.approx(np.eye(3))


def test_every_pair_keeps_a_chance_and_few_rows_are_shrunk_to_the_mean() -> None:
    raw = uniform(3, 0.2)
    raw[0] = [0.5, 0.5, 0.0]
    few, many = (shrunk(raw, raw, rows) for rows in (np.array([4.0, 400, 400]), np.full(3, 4000.0)))
    assert (few > 0).all()
    assert few.sum(1) == pytest.approx(1)
    assert abs(few[0, 0] - 0.8) < abs(many[0, 0] - 0.8)
    assert many[0] == pytest.approx(raw[0], abs=0.05)
    assert many[0, 2] >= TINY / 10


def test_a_class_that_judges_often_miss_is_shrunk_more() -> None:
    raw, rows = np.array([[0.7, 0.3], [0.1, 0.9]]), np.full(2, 400.0)
    sure, unsure = (shrunk(raw, seen, rows) for seen in (raw, np.array([[0.5, 0.5], [0.5, 0.5]])))
    assert unsure[0, 1] - unsure[1, 0] < sure[0, 1] - sure[1, 0]
