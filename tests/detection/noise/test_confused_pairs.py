from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.noise.confused_pairs import confused_pairs

FLIPS = {(0, 1): 0.10, (2, 3): 0.05}
"""Share of the rows given the first label that have the second."""


def simulate(seed: int, flips: dict[tuple[int, int], float], error: float = 0.15) -> tuple[np.ndarray, ...]:
    """Given labels and predictions of train and clean validation rows; the model takes 3 for 0 more often than else."""
    rng = np.random.default_rng(seed)

    def predict(truth: np.ndarray) -> np.ndarray:
        wrong = rng.random(len(truth)) < error
        other = (truth + rng.integers(1, 4, len(truth))) % 4
        other = np.where((truth == 3) & (rng.random(len(truth)) < 0.7), 0, other)
        return np.where(wrong, other, truth)

    given = rng.integers(4, size=8000)
    truth = given.copy()
    for (label, true), share in flips.items():
        truth[(given == label) & (rng.random(len(given)) < share)] = true
    validation = rng.integers(4, size=2000)
    return given, predict(truth), validation, np.stack([predict(validation), predict(validation)]), truth


def test_the_pairs_with_wrong_labels_come_first_with_their_numbers() -> None:
    given, best, validation, of_validation, truth = simulate(0, FLIPS)
    pairs = confused_pairs(given, best, validation, of_validation, 4)
    assert [(pair.given, pair.suggested) for pair in pairs[:2]] == list(FLIPS)
    for pair in pairs[:2]:
        wrong = ((given == pair.given) & (truth == pair.suggested)).sum()
        assert pair.low <= wrong <= pair.high
        assert pair.estimated == pytest.approx(wrong, rel=0.3)
        assert pair.rows == ((given == pair.given) & (best == pair.suggested)).sum()


def test_what_the_model_confuses_of_itself_is_subtracted() -> None:
    """By chance a pair may come out above 0, in about 1 of 40 draws; small counts make that a little more often."""
    above = 0
    for seed in range(40):
        given, best, validation, of_validation, _ = simulate(seed, {})
        assert ((given == 3) & (best == 0)).sum() > 150
        above += sum(pair.low > 0 for pair in confused_pairs(given, best, validation, of_validation, 4))
    assert above / (40 * 12) < 0.08


def test_intervals_hold_the_true_number_in_most_of_many_draws() -> None:
    held = []
    for seed in range(60):
        given, best, validation, of_validation, truth = simulate(seed, FLIPS)
        found = {(p.given, p.suggested): p for p in confused_pairs(given, best, validation, of_validation, 4)}
        for pair in FLIPS:
            wrong = ((given == pair[0]) & (truth == pair[1])).sum()
            held.append(pair in found and found[pair].low <= wrong <= found[pair].high)
    assert np.mean(held) > 0.9


def test_no_more_rows_are_estimated_than_there_are() -> None:
    """The halves see the other label in all rows of class 0 and in three quarters of its own: 100 / .75 > 100."""
    given, best = np.repeat([0, 1], 100), np.ones(200, dtype=int)
    validation = np.repeat([0, 1], 40)
    judged = np.where(np.arange(80) % 4 == 0, 0, validation)[None]
    (pair,) = confused_pairs(given, best, validation, judged, 2)
    assert (pair.given, pair.suggested, pair.rows, pair.estimated, pair.high) == (0, 1, 100, 100.0, 100.0)


def test_a_class_without_validation_rows_has_no_estimate() -> None:
    given, best, validation, of_validation, _ = simulate(0, FLIPS)
    seen = validation != 1
    pairs = confused_pairs(given, best, validation[seen], of_validation[:, seen], 4)
    assert {(pair.given, pair.suggested) for pair in pairs}.isdisjoint(FLIPS.keys() - {(2, 3)})
