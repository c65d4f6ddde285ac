"""Linear datamodeling score, ceiling and slope against scipy and against made-up truths with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.verification.lds import ceiling, lds_score, pearson, predicted_change, ranks, slope, splits


def test_predictions_are_sums_over_the_removed_rows() -> None:
    scores = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 1.0, 0.0]])
    removed = np.array([[True, False, True, False], [False, False, False, True]])
    assert predicted_change(scores, removed).tolist() == [[5.0, 1.0], [8.0, 0.0]]


def test_with_the_steps_kept_the_kept_rows_weigh_more_and_an_average_set_changes_nothing() -> None:
    scores = np.array([[1.0, 3.0, 5.0, 7.0]])
    removed = np.array([[True, False, False, True], [True, True, False, False]])
    # Weights of the kept rows go from 1 to 2, those of the removed from 1 to 0: −Σ_kept τ + Σ_removed τ.
    assert predicted_change(scores, removed, steps_kept=True)[:, 0].tolist() == [0.0, 4.0 - 12.0]


def test_rank_correlation_is_that_of_scipy_with_ties() -> None:
    random = np.random.RandomState(0)
    first, second = random.randint(0, 5, (40, 3)), random.randint(0, 5, (40, 3))
    expected = [spearmanr(first[:, k], second[:, k])[0] for k in range(3)]
    assert pearson(ranks(first), ranks(second)) == pytest.approx(expected)


def test_rank_correlation_with_a_constant_is_nothing() -> None:
    assert pearson(ranks(np.ones((5, 1))), ranks(np.arange(5.0)[:, None])).tolist() == [0.0]


def test_lds_is_the_mean_over_queries_and_models_and_lies_in_its_interval() -> None:
    random = np.random.RandomState(1)
    truth = random.standard_normal((60, 4))
    models = np.stack([np.exp(truth), -truth, truth + random.standard_normal(truth.shape)])
    single = [np.mean([spearmanr(truth[:, k], one[:, k])[0] for k in range(4)]) for one in models]
    assert single[:2] == pytest.approx([1.0, -1.0])
    assert lds_score(truth, models).value == pytest.approx(np.mean(single))
    found = lds_score(truth, models[2])
    assert found.value == pytest.approx(single[2])
    assert found.low < found.value < found.high


@pytest.mark.parametrize("retrainings", [2, 5, 16])
def test_the_ceiling_is_what_the_noiseless_truth_itself_reaches(retrainings: int) -> None:
    random = np.random.RandomState(2)
    signal = random.standard_normal((3000, 1, 2))
    truth = signal + random.standard_normal((3000, retrainings, 2))
    reached = pearson(ranks(truth.mean(1)), ranks(signal[:, 0])).mean()
    found = ceiling(truth)
    assert found is not None
    assert found.value == pytest.approx(reached, abs=0.03)


def test_a_truth_without_repeats_has_no_known_ceiling() -> None:
    assert ceiling(np.zeros((10, 1, 1))) is None


@pytest.mark.parametrize("retrainings", [2, 3, 5, 6, 20])
def test_halves_are_disjoint_and_of_equal_size(retrainings: int) -> None:
    for first, second in splits(retrainings, seed=0):
        assert len(first) == len(second) == retrainings // 2
        assert not set(first) & set(second)


def test_slope_finds_by_how_much_predictions_are_too_large() -> None:
    random = np.random.RandomState(3)
    predicted = random.standard_normal((200, 3)) + [5.0, 0.0, -5.0]
    truth = 0.25 * predicted + [1.0, 2.0, 3.0] + 0.1 * random.standard_normal((200, 3))
    found = slope(truth, predicted)
    assert found.value == pytest.approx(0.25, abs=0.02)
    assert found.low < 0.25 < found.high
    assert found.high - found.low < 0.1
