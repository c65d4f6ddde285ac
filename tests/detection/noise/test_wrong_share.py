"""How many labels are wrong, by judges with errors of their own, of files whose truth is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from flipped_labels import Simulated, as_judged, in_pairs, one_sided, simulate, uniform
from sklearn.metrics import average_precision_score

from pipeline.detection.noise.label_flips import right_label, wrong_label
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.shares import mean_of_shares, share_of_rows
from pipeline.detection.noise.wrong_share import (
    MOST_PAIRS,
    WrongShare,
    estimate_wrong_answers,
    estimate_wrong_share,
    is_told,
    largest_pairs,
)


def estimated(drawn: Simulated, seed: int = 0, noise: float = 0.4) -> WrongShare:
    opinions = [as_judged(10 * seed + judge, drawn, noise) for judge in range(2)]
    return estimate_wrong_share(opinions, np.ones(2), drawn.given, seed)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_share_is_found_and_its_interval_holds_it(classes: int) -> None:
    errors, held = [], 0
    for seed in range(6):
        drawn = simulate(seed, 1500, uniform(classes, 0.15))
        found, truth = estimated(drawn, seed).estimate, drawn.wrong.mean()
        assert found.low <= found.value <= found.high
        errors.append(found.value - truth)
        held += found.low <= truth <= found.high
    assert abs(np.mean(errors)) < 0.03
    assert np.abs(errors).max() < 0.08
    assert held >= 5


def test_a_file_without_wrong_labels_has_hardly_any() -> None:
    found = estimated(simulate(7, 2000, np.eye(3)), noise=0.2).estimate
    assert found.low == 0
    assert found.value < 0.02


@pytest.mark.parametrize(
    ("value", "contradicted", "told"),
    [
        (0.10, 0.13, True),
        (0.09, 0.30, True),  # hard rows, and wrong labels that are told from them
        (0.00, 0.04, True),  # an easy file
        (0.00, 0.20, False),
        (0.02, 0.20, False),
    ],
)
def test_contradictions_that_are_never_sure_say_nothing(
    value: float, contradicted: float, told: bool
) -> None:
    assert is_told(NoiseEstimate(value, 0.0, 1.0), contradicted) == told


def test_labels_that_are_wrong_where_rows_are_hard_are_not_counted_as_right() -> None:
    """One number decides the class, and every fifth label, the nearest to the boundary, is wrong."""
    random = np.random.RandomState(0)
    x = random.uniform(-1, 1, 3000)
    truth, near = (x > 0).astype(int), np.abs(x) < np.quantile(np.abs(x), 0.4)
    wrong = near & (random.random_sample(len(x)) < 0.5)
    given = np.where(wrong, 1 - truth, truth)
    share_of_one = 1 / (1 + np.exp(-4 * x))  # surer with distance, as whoever learned from these labels
    seen = np.stack([1 - share_of_one, share_of_one], 1)
    found = estimate_wrong_share([seen, seen], np.ones(2), given, 0)
    contradicted = float((seen.argmax(1) != given).mean())
    assert wrong.mean() == pytest.approx(0.2, abs=0.02)
    assert not is_told(found.estimate, contradicted)
    doubt = wrong_label(right_label(seen, given, found.flips), given)
    assert average_precision_score(wrong, doubt) > 0.95  # they are ranked all the same


def test_the_pairs_are_those_that_were_flipped_and_add_up() -> None:
    drawn = simulate(8, 3000, in_pairs(5, 0.2), sureness=6)
    share = estimated(drawn)
    true = {(k + 1) % 5: k for k in range(5)}  # given → right
    assert {(pair.given, pair.suggested) for pair in share.pairs[:5]} == set(true.items())
    for pair in share.pairs[:5]:
        planted = int((drawn.wrong & (drawn.given == pair.given)).sum())
        assert pair.estimated == pytest.approx(planted, rel=0.3)
        assert pair.low <= pair.estimated <= pair.high
        contradicted = ((drawn.given == pair.given) & (drawn.seen.argmax(1) == pair.suggested)).sum()
        assert pair.rows == pytest.approx(contradicted, rel=0.3)


def test_one_sided_flips_have_one_pair() -> None:
    first, *others = estimated(simulate(9, 3000, one_sided(0.25))).pairs
    assert (first.given, first.suggested) == (1, 0)
    assert sum(pair.estimated for pair in others) < 0.2 * first.estimated


def test_of_many_pairs_the_largest_of_a_row_or_more_are_named() -> None:
    counts = np.arange(25, dtype=float).reshape(5, 5)
    np.fill_diagonal(counts, 0)
    counts[0] = [0, 0.9, 0, 0, 0]
    pairs = largest_pairs(counts, np.ones((5, 5)), counts)
    assert len(pairs) == MOST_PAIRS
    assert [pair.estimated for pair in pairs[:3]] == [23, 22, 21]
    assert (pairs[0].given, pairs[0].suggested, pairs[0].rows) == (4, 3, 23)
    assert pairs[0].high - pairs[0].low == pytest.approx(2 * 1.96)
    assert largest_pairs(np.full((2, 2), 0.9), np.ones((2, 2)), np.zeros((2, 2))) == []


def test_judges_that_differ_widen_the_interval() -> None:
    drawn = simulate(10, 1500, uniform(3, 0.2))
    good = as_judged(0, drawn, 0.1)
    alike = estimate_wrong_share([good, good], np.ones(2), drawn.given, 0).estimate
    apart = estimate_wrong_share([good, as_judged(1, drawn, 1.0)], np.ones(2), drawn.given, 0).estimate
    assert apart.high - apart.low > alike.high - alike.low


def test_the_estimate_depends_on_its_seed_alone() -> None:
    drawn = simulate(11, 600, uniform(2, 0.2))
    assert estimated(drawn, 3).estimate == estimated(drawn, 3).estimate


def test_other_rows_are_no_surer_than_the_train_rows_estimate() -> None:
    rng = np.random.default_rng(0)
    wrong = (rng.uniform(size=200) < 0.2).astype(float)
    of_train = NoiseEstimate(0.2, 0.15, 0.25)
    found = share_of_rows(wrong, of_train)
    assert found.value == wrong.mean()
    assert found.high - found.low > of_train.high - of_train.low
    few = share_of_rows(wrong[:20], of_train)
    assert few.high - few.low > found.high - found.low
    none = share_of_rows(np.zeros(5), of_train)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.05)


def test_the_share_of_the_file_is_the_mean_over_its_rows() -> None:
    parts = [(300, NoiseEstimate(0.1, 0.0, 0.2)), (100, NoiseEstimate(0.3, 0.2, 0.6))]
    found = mean_of_shares(parts)
    assert (found.value, found.low, found.high) == pytest.approx((0.15, 0.05, 0.3))


def test_sets_of_labels_are_counted_answer_by_answer() -> None:
    drawn = [simulate(seed, 1500, matrix) for seed, matrix in enumerate([uniform(2, 0.1), one_sided(0.3)])]
    asked = np.stack([as_judged(seed, each, 0.2)[:, 1] for seed, each in enumerate(drawn)], 1)
    given = np.stack([each.given for each in drawn], 1).astype(np.uint8)
    found = estimate_wrong_answers(asked, given, 0)
    truth = np.mean([each.wrong.mean() for each in drawn])
    assert found.value == pytest.approx(truth, abs=0.04)
    assert found.low <= truth <= found.high
