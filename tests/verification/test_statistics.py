from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.verification.statistics import (
    BOTH,
    difference_interval,
    power,
    seed_interval,
    seed_noise,
    seen_gain,
)

SEEDS = 5
ROWS = 60
EXPERIMENTS = 3000


def covered(draw: np.ndarray, truth: float) -> float:
    """The share of experiments, `[experiments, seeds, rows]`, whose interval holds the truth."""
    intervals = [difference_interval(each) for each in draw]
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


@pytest.mark.parametrize(
    ("of_seeds", "of_rows", "rest"),
    [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.1, 1, 0), (0.13, 1, 1), (0.3, 1, 1), (0.05, 0.3, 3), (0.13, 0, 1)],
    ids=lambda value: str(value),
)
def test_intervals_cover_the_truth_in_about_95_percent_of_experiments(
    of_seeds: float, of_rows: float, rest: float
) -> None:
    random = np.random.RandomState(0)
    draw = 0.7 + of_seeds * random.standard_normal((EXPERIMENTS, SEEDS, 1))
    draw = draw + of_rows * random.standard_normal((EXPERIMENTS, 1, ROWS))
    draw = draw + rest * random.standard_normal((EXPERIMENTS, SEEDS, ROWS))
    assert 0.93 <= covered(draw, 0.7) <= 0.99


def test_intervals_cover_the_truth_for_differences_of_right_and_wrong_answers() -> None:
    """Two arms whose chance to be right depends on the seed and the row, as in classification."""
    random = np.random.RandomState(1)
    rows = 300
    easy = random.normal(1.5, 2, (1500, 1, rows))
    seed = random.normal(0, 0.1, (1500, 2, SEEDS, 1))
    gain = 0.2
    chance = [1 / (1 + np.exp(-(easy + seed[:, arm] + gain * arm))) for arm in (0, 1)]
    right = [(random.random_sample(each.shape) < each).astype(float) for each in chance]
    level = np.random.RandomState(2)
    sample = level.normal(1.5, 2, 10**6)
    noise = level.normal(0, 0.1, 10**6)
    truth = np.mean(1 / (1 + np.exp(-(sample + noise + gain))) - 1 / (1 + np.exp(-(sample + noise))))
    assert 0.93 <= covered(right[1] - right[0], truth) <= 0.99


def test_with_seed_noise_alone_the_interval_is_students() -> None:
    values = np.array([0.1, 0.3, -0.2, 0.4, 0.0])
    interval = difference_interval(np.repeat(values[:, None], 7, axis=1))
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert vars(seed_interval(values)) == pytest.approx({"mean": values.mean(), "low": low, "high": high})


def test_with_row_noise_alone_the_interval_is_students() -> None:
    values = np.random.RandomState(0).standard_normal(30)
    interval = difference_interval(np.repeat(values[None], 3, axis=0))
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (interval.mean, interval.low, interval.high) == pytest.approx((values.mean(), low, high))


def test_equal_arms_give_an_interval_of_width_0() -> None:
    assert difference_interval(np.zeros((5, 10))).as_json() == {"mean": 0, "low": 0, "high": 0}


def test_seeds_that_tie_by_chance_do_not_pass_for_certainty() -> None:
    """Both seeds are right on one row more, but on different ones: σ_e² alone is left."""
    tied = np.zeros((2, 100))
    tied[0, :5], tied[0, 5:9], tied[1, 20:27], tied[1, 27:33] = 1, -1, 1, -1
    interval = difference_interval(tied)
    assert interval.mean == pytest.approx(0.01)
    assert interval.low < 0 < interval.high
    assert interval.high - interval.low >= 2 * 1.96 * np.sqrt(np.square(tied).mean() / 200) * 0.95


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("control_noise", [1.0, 1.4])
def test_noise_pooled_over_arms_covers_the_truth_also_where_the_control_is_noisier(
    seeds: int, control_noise: float
) -> None:
    """Five arms whose means differ by seed alone, the last with more of it, as it draws other rows for every seed."""
    random, held = np.random.RandomState(seeds), []
    of_arms = np.array([1, 1, 1, 1, control_noise])[:, None]
    for _ in range(1200):
        common = random.standard_normal((1, seeds))
        means = common + of_arms * random.standard_normal((5, seeds))
        noise = seed_noise(means)
        assert noise.degrees == 4 * (seeds - 1)
        both = [
            difference_interval(np.repeat((means[0] - means[other])[:, None], 40, 1), 0.95, noise)
            for other in (1, 4)
        ]
        held.append([interval.low <= 0 <= interval.high for interval in both])
    assert (np.mean(held, axis=0) >= 0.935).all()


def test_pooled_noise_is_the_residual_variance_of_the_two_way_layout() -> None:
    means = np.random.RandomState(0).standard_normal((4, 3))
    design = np.array([[*(a == np.arange(4)), *(s == np.arange(1, 3))] for a in range(4) for s in range(3)])
    rest = means.ravel() - design @ np.linalg.lstsq(design.astype(float), means.ravel(), rcond=None)[0]
    assert seed_noise(means).variance == pytest.approx(np.square(rest).sum() / 6)
    assert seed_noise(means).degrees == 6


def test_two_seeds_show_with_five_arms_what_they_do_not_show_alone() -> None:
    random = np.random.RandomState(3)
    means = 0.002 * random.standard_normal((5, 2)) + np.array([0.84, 0.92, 0.90, 0.92, 0.83])[:, None]
    difference = np.repeat((means[1] - means[0])[:, None], 500, 1)
    assert (
        difference_interval(difference, 0.975).low
        < difference_interval(difference, 0.975, seed_noise(means)).low
    )
    assert difference_interval(difference, 0.975, seed_noise(means)).low > 0


def test_an_arm_chosen_by_its_luck_with_the_seeds_is_covered_when_the_choice_is_counted() -> None:
    random, missed = np.random.RandomState(0), {1: 0, 3: 0}
    for _ in range(1200):
        means = random.standard_normal((5, 4))  # as given, three arms and a control
        chosen = 1 + int(means[1:4].mean(1).argmax())
        difference = np.repeat((means[chosen] - means[0])[:, None], 40, 1)
        for choices in missed:
            interval = difference_interval(difference, 0.975, seed_noise(means), choices)
            missed[choices] += interval.low > 0
    assert missed[3] / 1200 <= 0.0125 * 1.8
    assert missed[1] > 1.5 * missed[3]


@pytest.mark.parametrize(("rows", "seeds"), [(300, 5), (1000, 2), (1000, 5)])
def test_a_gain_of_the_stated_power_is_seen_in_about_80_percent(rows: int, seeds: int) -> None:
    """Half of the rows' variance is their own, half changes with the seed; the arm is compared with two others."""
    gain, random = power(rows, seeds, disagreement=0.1), np.random.RandomState(1)
    seen = []
    for _ in range(400):
        own = np.sqrt(0.025) * random.standard_normal((5, 1, rows))
        arms = own + np.sqrt(0.025) * random.standard_normal((5, seeds, rows))
        arms[0] += gain
        noise = seed_noise(arms.mean(2))
        both = [difference_interval(arms[0] - arms[other], BOTH, noise).low > 0 for other in (1, 2)]
        seen.append(all(both))
    assert 0.7 <= np.mean(seen) <= 0.9


def test_more_rows_and_seeds_show_smaller_gains() -> None:
    assert power(4000, 5) == pytest.approx(power(1000, 5) / 2, rel=1e-2)
    assert power(1000, 5) < power(1000, 3) < power(1000, 2)


def test_the_gain_that_would_be_seen_is_larger_than_the_half_width() -> None:
    assert seen_gain(0.01) == pytest.approx(0.01 * (1 + 1.1684 / 2.2414), rel=1e-3)
