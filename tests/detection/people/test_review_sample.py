"""Answers on a sample bound the precision of the most suspicious rows; oracles are exact tables and simulation."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from pipeline.detection.people.review_sample import (
    RIGHT,
    UNANSWERED,
    UNSURE,
    WRONG,
    ReviewPlan,
    answers_per_cutoff,
    judge,
    lower_bound,
    make_plan,
    rows_to_ask,
    rows_to_remove,
)


def review(plan: ReviewPlan, wrong: np.ndarray, sheet: int) -> np.ndarray:
    """Answer sheet after sheet until nothing is left to ask; the verdicts."""
    verdicts = np.full(plan.cutoffs[-1], UNANSWERED, dtype=np.int8)
    while asked := rows_to_ask(plan, verdicts, sheet):
        places = [place for place, _ in asked]
        assert (verdicts[places] == UNANSWERED).all()
        verdicts[places] = np.where(wrong[places], WRONG, RIGHT)
    return verdicts


@given(st.integers(1, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_the_lower_bound_is_the_least_share_that_the_sample_does_not_contradict(
    rows: int, data: st.DataObject
) -> None:
    sampled = data.draw(st.integers(1, rows))
    wrong = data.draw(st.integers(0, sampled))

    def chance(each: int) -> Fraction:
        """Of `wrong` or more wrong rows in the sample, exactly."""
        ways = sum(
            comb(each, k) * comb(rows - each, sampled - k) for k in range(wrong, min(each, sampled) + 1)
        )
        return Fraction(ways, comb(rows, sampled))

    possible = range(wrong, rows - (sampled - wrong) + 1)
    least = next(each for each in possible if chance(each) >= Fraction(1, 20))
    assert lower_bound(rows, sampled, wrong, 0.95) == least / rows


def test_a_chance_of_exactly_one_minus_the_confidence_is_not_contradicted() -> None:
    # Both of 2 sampled rows are wrong with chance (6 · 5) / (25 · 24) = 1/20 when 6 of 25 are.
    assert lower_bound(25, 2, 2, 0.95) == 6 / 25


def test_the_lower_bound_is_clopper_pearsons_for_many_rows_and_exact_when_all_are_answered() -> None:
    expected = beta.ppf(0.05, 55, 60 - 55 + 1)
    assert lower_bound(1_000_000, 60, 55, 0.95) == pytest.approx(expected, abs=1e-4)
    assert lower_bound(40, 40, 31, 0.95) == 31 / 40
    assert lower_bound(40, 40, 0, 0.95) == 0


def test_the_number_of_answers_lets_a_good_list_pass_and_no_fewer_do() -> None:
    number = answers_per_cutoff(0.8, 0.95)
    assert 40 < number < 100
    passes = [wrong for wrong in range(number + 1) if lower_bound(10**7, number, wrong, 0.95) >= 0.8]
    rng = np.random.default_rng(0)
    assert (rng.binomial(number, 1 - 0.2 / 3, 20000) >= passes[0]).mean() == pytest.approx(0.9, abs=0.05)
    assert answers_per_cutoff(0.9, 0.95) > number


@pytest.mark.parametrize("flagged", [0, 10, 140, 5000])
def test_cutoffs_go_from_strict_to_lax_within_what_may_be_removed(flagged: int) -> None:
    plan = make_plan(0.8, 0.95, flagged, 6000, 0)
    assert list(plan.cutoffs) == sorted(set(plan.cutoffs))
    assert plan.cutoffs[0] >= min(plan.answers, plan.cutoffs[-1])
    assert plan.cutoffs[-1] == min(6000, max(2 * flagged, plan.answers))
    assert ReviewPlan.from_json(plan.as_json()) == plan


def test_samples_lie_in_their_cutoff_and_take_over_from_the_one_before() -> None:
    plan = make_plan(0.8, 0.95, 1000, 5000, 3)
    for strict, lax in zip(plan.cutoffs, plan.cutoffs[1:]):
        one, two = set(plan.sample(strict).tolist()), set(plan.sample(lax).tolist())
        assert max(two) < lax
        assert len(two) == plan.answers
        assert {place for place in two if place < strict} <= one


def test_every_candidate_of_a_cutoff_is_as_likely_to_be_asked_about() -> None:
    counts = np.zeros(100)
    for seed in range(2000):
        counts[ReviewPlan(0.8, 0.95, (50, 100), 20, seed).sample(100)] += 1
    assert counts.min() > 2000 * 0.2 - 5 * np.sqrt(2000 * 0.2 * 0.8)
    assert counts.max() < 2000 * 0.2 + 5 * np.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize("sheet", [10_000, 37])
def test_the_precision_that_is_promised_is_kept(sheet: int) -> None:
    broken = removed = 0
    for repeat in range(100):
        rng = np.random.default_rng(repeat)
        wrong = rng.random(1000) < np.linspace(0.95, 0.3, 1000)
        plan = make_plan(0.8, 0.9, 400, 1000, repeat)
        head = rows_to_remove(judge(plan, review(plan, wrong, sheet)))
        removed += head > 0
        broken += head > 0 and wrong[:head].mean() < 0.8
    assert removed > 30
    assert broken <= 100 * 0.1


def test_nothing_is_shown_of_a_bad_list_and_the_questions_end_early() -> None:
    wrong = np.random.default_rng(0).random(2000) < 0.3
    plan = make_plan(0.8, 0.95, 500, 2000, 0)
    verdicts = review(plan, wrong, 20)
    assert rows_to_remove(judge(plan, verdicts)) == 0
    assert judge(plan, verdicts)[-1].state == "fails"
    assert (verdicts != UNANSWERED).sum() < plan.answers


def test_unsure_counts_as_not_wrong() -> None:
    plan = make_plan(0.8, 0.95, 10, 60, 0)
    verdicts = np.full(plan.cutoffs[-1], WRONG, dtype=np.int8)
    assert rows_to_remove(judge(plan, verdicts)) == plan.cutoffs[-1]
    verdicts[:13] = UNSURE
    unsure = judge(plan, verdicts)
    verdicts[:13] = RIGHT
    assert rows_to_remove(unsure) == 0
    assert unsure == judge(plan, verdicts)


def test_without_answers_a_test_is_open() -> None:
    plan = make_plan(0.8, 0.95, 100, 1000, 0)
    (first,) = judge(plan, np.full(plan.cutoffs[-1], UNANSWERED, dtype=np.int8))
    assert (first.state, first.answered, first.bound) == ("open", 0, 0.0)
