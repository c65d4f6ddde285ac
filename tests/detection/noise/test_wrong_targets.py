"""The share of wrong numeric targets from residuals alone, on simulated predictions with a known share."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.judges.target_judges import explained
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.wrong_targets import FEWEST_ROWS, estimate_exchanged_targets

ROWS = 1000


def simulated(
    share: float, seed: int, error: float = 0.3, skewed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of which `share` are those of other rows, and predictions with normal errors; skewed: of a logarithm."""
    random = np.random.RandomState(seed)
    truth = random.standard_normal(ROWS)
    targets = truth + error * random.standard_normal(ROWS)
    wrong = random.permutation(ROWS)[: round(share * ROWS)]
    targets[wrong] = targets[np.roll(wrong, 1)]
    return (np.exp(targets), np.exp(truth)) if skewed else (targets, truth)


def estimated(targets: np.ndarray, predicted: np.ndarray) -> NoiseEstimate | None:
    return estimate_exchanged_targets(targets, [predicted], explained(targets, predicted), 0)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_the_share_is_found_and_the_interval_holds_it(share: float, skewed: bool) -> None:
    found = [estimated(*simulated(share, seed, skewed=skewed)) for seed in range(5)]
    assert np.mean([abs(each.value - share) for each in found if each]) < 0.02
    assert sum(each is not None and each.low <= share <= each.high for each in found) >= 4


@pytest.mark.parametrize("skewed", [False, True])
def test_right_targets_get_an_estimate_near_zero(skewed: bool) -> None:
    for seed in range(5):
        found = estimated(*simulated(0.0, seed, skewed=skewed))
        assert found is not None
        assert found.value < 0.01


def test_there_is_no_estimate_where_the_judges_predict_little_or_rows_are_few() -> None:
    targets, predicted = simulated(0.1, 0, error=1.0)
    assert estimated(targets, predicted) is None
    targets, predicted = simulated(0.1, 0)
    few = FEWEST_ROWS - 1
    assert estimated(targets[:few], predicted[:few]) is None


def test_judges_that_differ_widen_the_interval() -> None:
    targets, predicted = simulated(0.1, 0)
    blurred = predicted + 0.6 * np.random.RandomState(1).standard_normal(ROWS)
    alone = estimate_exchanged_targets(targets, [predicted], 0.9, 0)
    both = estimate_exchanged_targets(targets, [predicted, predicted, blurred], 0.9, 0)
    assert alone is not None
    assert both is not None
    assert both.value == alone.value
    assert both.high - both.low > alone.high - alone.low


def test_the_same_seed_gives_the_same_estimate() -> None:
    targets, predicted = simulated(0.1, 0)
    assert estimated(targets, predicted) == estimated(targets, predicted)
