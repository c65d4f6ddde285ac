from __future__ import annotations

import numpy as np
import pytest

from pipeline.detection.judges.residuals import robust_deviation
from pipeline.detection.noise.flag_counts import (
    DOUBTFUL_TARGET,
    Counts,
    count_classification,
    count_contradictions,
    count_exchanged,
    count_regression,
)
from pipeline.detection.noise.noise_estimate import NoiseEstimate, estimate_noise, estimate_wrong_targets


def simulate(
    noise: float, error: float, classes: int = 10, rows: int = 20000
) -> tuple[np.ndarray, np.ndarray]:
    """Contradictions of a classifier that errs on a share of the rows, independently of wrong labels."""
    rng = np.random.default_rng(0)
    truth = rng.integers(classes, size=rows)
    label = np.where(rng.random(rows) < noise, (truth + rng.integers(1, classes, size=rows)) % classes, truth)
    predicted = np.where(
        rng.random(rows) < error, (truth + rng.integers(1, classes, size=rows)) % classes, truth
    )
    clean = rng.random(4000) < error
    return predicted != label, clean


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("error", [0.02, 0.2])
def test_the_noise_estimate_finds_uniform_noise_whatever_the_classifier(noise: float, error: float) -> None:
    estimate = estimate_noise(*simulate(noise, error), classes=10)
    assert estimate is not None
    assert abs(estimate.value - noise) < 0.02
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.high - estimate.low < 0.08


def test_classes_that_cannot_be_told_apart_give_no_estimate() -> None:
    assert estimate_noise(*simulate(0.1, 0.49, classes=2), classes=2) is None


def test_contradictions_must_agree_and_the_surer_ones_need_harm_or_a_probable_other_label() -> None:
    a = np.array([True, True, True, False])
    b = np.array([True, True, False, True])
    harm = np.array([1.0, -1.0, 1.0, 1.0])
    probable = np.array([False, True, True, True])
    assert count_contradictions([a, b], harm, probable) == Counts(1, 2)
    assert count_contradictions([a, b], None, probable) == Counts(1, 2)
    assert count_contradictions([a, b], None, ~probable) == Counts(1, 2)
    assert count_contradictions([a, b], -harm, probable) == Counts(1, 2)
    assert count_contradictions([a], harm, probable) == Counts(2, 3)


def test_as_many_rows_are_likely_wrong_as_estimated_and_contradictions_are_looked_at() -> None:
    noise = NoiseEstimate(0.1, 0.08, 0.12)
    assert count_classification(Counts(50, 80), noise, 1000) == Counts(100, 100)
    assert count_classification(Counts(120, 180), noise, 1000) == Counts(100, 180)
    assert count_classification(Counts(5, 9), None, 1000) == Counts(5, 9)


def test_regression_counts_follow_a_robust_scale() -> None:
    rng = np.random.default_rng(0)
    predicted, residuals = rng.normal(size=10000), rng.normal(size=10000)
    residuals[:100] += 20
    counts = count_regression(robust_deviation(predicted + residuals, predicted), None)
    assert counts.likely_wrong == pytest.approx(100, abs=2)
    assert 100 <= counts.review <= 115
    assert count_regression(robust_deviation(np.zeros(10), np.zeros(10)), None) == Counts(0, 0)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("error", [0.2, 0.7])
def test_the_share_of_exchanged_targets_is_found_whatever_the_model_s_error(
    share: float, error: float
) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=5000)
    predicted = truth + error * rng.normal(size=5000)
    targets = truth.copy()
    wrong = round(share * 5000)
    targets[:wrong] = rng.permutation(truth)[:wrong]
    of_validation = error * rng.normal(size=(2, 1000))
    estimate = estimate_wrong_targets(
        targets - predicted, of_validation, rng.permutation(targets) - predicted
    )
    assert estimate is not None
    assert abs(estimate.value - share) < 0.035
    assert estimate.low <= estimate.value <= estimate.high


def test_targets_are_removed_by_the_lower_end_of_the_estimate_and_reviewed_by_its_value() -> None:
    near = np.zeros(1000)
    assert count_regression(near, NoiseEstimate(0.1, 0.04, 0.16)) == Counts(40, 100)
    far = np.r_[np.full(60, 6.0), np.full(80, 4.0), near]
    assert count_regression(far, NoiseEstimate(0.1, 0.04, 0.16)) == Counts(60, 140)


def test_model_that_predicts_nothing_gives_no_estimate_of_wrong_targets() -> None:
    rng = np.random.default_rng(0)
    targets, of_validation = rng.normal(size=1000), rng.normal(size=(2, 500))
    assert estimate_wrong_targets(targets, of_validation, rng.permutation(targets)) is None


def test_a_target_is_held_against_those_with_a_like_prediction() -> None:
    """Errors that grow with the target: one scale for all would flag large targets and miss small ones."""
    rng = np.random.default_rng(0)
    predicted = rng.uniform(1, 100, size=5000)
    targets = predicted * (1 + 0.1 * rng.normal(size=5000))
    small = np.argsort(predicted)[:20]
    targets[small] += 30
    flagged = robust_deviation(targets, predicted) > DOUBTFUL_TARGET
    assert flagged[small].all()
    assert flagged.sum() < 20 + 30
    overall = np.abs(targets - predicted) / (1.4826 * np.median(np.abs(targets - predicted)))
    assert (overall > DOUBTFUL_TARGET).sum() > 150


def test_with_exchanged_targets_a_row_is_likely_wrong_where_it_is_more_probably_so() -> None:
    """1,000 rows, 100 of them wrong: right deviations are half normal, wrong ones uniform up to 10."""
    random = np.random.RandomState(0)
    wrong = np.arange(1000) < 100
    deviation = np.where(wrong, random.uniform(0, 10, 1000), np.abs(random.standard_normal(1000)))
    rarity = np.clip(1 - deviation / 10, 0, 1)
    counts = count_exchanged(deviation, rarity, NoiseEstimate(0.1, 0.08, 0.12))
    half = np.sort(deviation)[::-1][counts.likely_wrong]
    # where the densities 0.1 · 1/10 and 0.9 · 2 φ(t) of wrong and right ones are equal
    assert half == pytest.approx(np.sqrt(-2 * np.log(0.01 / (0.9 * 2 / np.sqrt(2 * np.pi)))), abs=0.4)
    assert counts.review == 100


def test_no_wrong_targets_remove_only_what_is_farther_off_than_other_targets_would_be() -> None:
    deviation, rarity = np.array([1.0, 6.0, 6.0, 4.0]), np.array([0.9, 0.8, 0.05, 0.05])
    assert count_exchanged(deviation, rarity, NoiseEstimate(0.0, 0.0, 0.01)) == Counts(1, 2)
