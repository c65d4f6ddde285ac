"""The sample of holdout rows, by simulation with a known share of wrong labels."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.reviewing.holdout_sample import chances, draw_order, estimate_share, row_sizes

ROWS, DRAWS = 400, 300


def simulated(kind: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which labels are wrong, and what a model thinks of it."""
    random = np.random.default_rng(seed)
    truth = random.uniform(size=ROWS) < share
    good = np.where(truth, random.beta(4, 2, ROWS), random.beta(1, 12, ROWS))
    thought = {
        "good": good,
        "useless": random.beta(1, 5, ROWS),
        "too sure": np.minimum(3 * good, 0.999),
        "none": np.zeros(ROWS),
    }
    return truth, thought[kind]


@pytest.mark.parametrize("kind", ["good", "useless", "too sure", "none"])
@pytest.mark.parametrize("share", [0.05, 0.25])
@pytest.mark.parametrize("asked", [40, 120])
def test_the_share_is_unbiased_and_its_interval_holds_it(kind: str, share: float, asked: int) -> None:
    errors, held = [], 0
    for draw in range(DRAWS):
        truth, wrong = simulated(kind, share, draw)
        sizes = row_sizes(wrong, np.random.default_rng(draw).uniform(size=ROWS) ** 3)
        places = draw_order(sizes, draw)[:asked]
        found = estimate_share(wrong, sizes, places, truth[places].astype(float))
        assert found is not None
        errors.append(found.value - truth.mean())
        held += found.low <= truth.mean() <= found.high
    standard_error = np.std(errors) / np.sqrt(DRAWS)
    assert abs(np.mean(errors)) < 3.5 * standard_error + 0.007  # cut off at 0, where few are wrong
    assert held / DRAWS > 0.88


@pytest.mark.parametrize("asked", [40, 120])
def test_without_any_wrong_answer_the_share_may_still_be_above_0(asked: int) -> None:
    held = 0
    for draw in range(DRAWS):
        truth, wrong = simulated("none", 0.02, draw)
        sizes = row_sizes(wrong, np.ones(ROWS))
        places = draw_order(sizes, draw)[:asked]
        found = estimate_share(wrong, sizes, places, truth[places].astype(float))
        assert found is not None
        if not truth[places].any():
            assert found.high > 0.01
        held += found.low <= truth.mean() <= found.high
    assert held / DRAWS > 0.9


def test_rows_are_drawn_with_the_chances_that_are_said() -> None:
    sizes = row_sizes(np.random.default_rng(0).beta(1, 3, 50), np.ones(50))
    drawn = np.zeros(50)
    for seed in range(4000):
        drawn[draw_order(sizes, seed)[:10]] += 1
    assert np.abs(drawn / 4000 - chances(sizes, 10)).max() < 0.04


def test_a_larger_sample_holds_the_smaller_one_and_all_rows_give_the_share_itself() -> None:
    truth, wrong = simulated("good", 0.2, 0)
    sizes = row_sizes(wrong, np.ones(ROWS))
    order = draw_order(sizes, 3)
    assert sorted(order) == list(range(ROWS))
    found = estimate_share(wrong, sizes, order, truth[order].astype(float))
    assert found is not None
    assert found.low == pytest.approx(truth.mean())
    assert found.high == pytest.approx(truth.mean())


@pytest.mark.parametrize("sample", [1, 5, 30, 50])
def test_chances_add_up_to_the_sample(sample: int) -> None:
    sizes = np.random.default_rng(1).pareto(1.0, 50) + 0.01
    found = chances(sizes / sizes.sum(), sample)
    assert found.sum() == pytest.approx(sample)
    assert found.max() <= 1 + 1e-12


def test_rows_that_are_open_between_right_and_wrong_and_that_the_arms_differ_on_come_first() -> None:
    sizes = row_sizes(np.array([0.5, 0.01, 0.5, 0.01]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert sizes.sum() == pytest.approx(1)
    assert sizes[0] > sizes[2] > sizes[3]
    assert sizes[0] > sizes[1] > sizes[3] >= 0.3 / 4


def test_unsure_answers_widen_the_interval_both_ways() -> None:
    truth, wrong = simulated("good", 0.2, 0)
    sizes = row_sizes(wrong, np.ones(ROWS))
    places = draw_order(sizes, 3)[:60]
    answers = truth[places].astype(float)
    sure = estimate_share(wrong, sizes, places, answers)
    answers[:10] = np.nan
    unsure = estimate_share(wrong, sizes, places, answers)
    assert sure is not None
    assert unsure is not None
    assert unsure.low <= sure.low
    assert unsure.high >= sure.high
    assert estimate_share(wrong, sizes, places[:1], answers[:1]) is None
