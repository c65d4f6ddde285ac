from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.verification.statistics import difference_interval, seed_interval, verdict

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
@pytest.mark.parametrize(("rows", "of_seeds", "rest"), [(40, 0.0, 0.3), (150, 0.1, 1.0), (400, 0.4, 0.3)])
def test_arms_that_differ_by_chance_alone_are_seldom_called_improved_or_worse(
    seeds: int, rows: int, of_seeds: float, rest: float
) -> None:
    """Three arms of equal worth, right where an easiness of the row, the seed and both together exceed 0."""
    random, experiments = np.random.RandomState(seeds), 1000
    logit = random.normal(2, 2, (experiments, 1, 1, rows))
    logit = logit + of_seeds * random.standard_normal((experiments, 3, seeds, 1))
    right = (logit + rest * random.standard_normal((experiments, 3, seeds, rows)) > 0).astype(float)
    names = ("cleaned - as_given", "cleaned - random_removal")
    found = [
        verdict(
            {
                name: {"metric": difference_interval(arms[0] - other).as_json()}
                for name, other in zip(names, arms[1:])
            },
            higher_is_better=True,
        )
        for arms in right
    ]
    tolerance = 3 * np.sqrt(0.025 * 0.975 / experiments)
    assert found.count("improved") / experiments <= 0.01
    assert found.count("worse") / experiments <= 0.025 + tolerance
    one_group = [difference_interval(arms[0] - arms[1], 1 - 0.05 / 10).high < 0 for arms in right]
    assert np.mean(one_group) <= 0.0025 + 3 * np.sqrt(0.0025 / experiments)


BETTER, WORSE, UNSURE = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.2)


@pytest.mark.parametrize(
    ("given", "random", "expected"),
    [
        (BETTER, BETTER, "improved"),
        (BETTER, UNSURE, "no evidence"),
        (UNSURE, BETTER, "no evidence"),
        (BETTER, WORSE, "no evidence"),
        (WORSE, BETTER, "worse"),
        (WORSE, WORSE, "worse"),
        (UNSURE, WORSE, "no evidence"),
        ((0.0, 0.2), BETTER, "no evidence"),
        ((-0.2, 0.0), UNSURE, "no evidence"),
    ],
)
def test_verdict_follows_the_rule(
    given: tuple[float, float], random: tuple[float, float], expected: str
) -> None:
    def differences(sign: int) -> dict[str, dict[str, dict[str, float]]]:
        found = {}
        for name, bounds in (("cleaned - as_given", given), ("cleaned - random_removal", random)):
            low, high = sorted(sign * bound for bound in bounds)
            found[name] = {"metric": {"mean": (low + high) / 2, "low": low, "high": high}}
        return found

    assert verdict(differences(1), higher_is_better=True) == expected
    assert verdict(differences(-1), higher_is_better=False) == expected
