from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Detection
from pipeline.detection.noise.flag_counts import Counts
from pipeline.detection.rules.decide import FlagChoice, Ranked, decide, removable, within_caps
from pipeline.text.decisions import DECISIONS, Decision

ROWS = 100
IDS = np.arange(ROWS)
NONE = np.full(ROWS, np.nan)
SUSPICION = np.linspace(0.99, 0.01, ROWS)
CLASSES = np.arange(ROWS) % 4
NOBODY = np.zeros(ROWS, dtype=bool)


def decided(
    config: Detection,
    counts: Counts,
    probability: np.ndarray = NONE,
    strata: np.ndarray = CLASSES,
    carriers: np.ndarray | None = None,
) -> np.ndarray:
    rows = ranked(strata, probability, carriers)
    return np.array(DECISIONS)[decide(config, rows, by_counts(rows, counts))]


def ranked(
    strata: np.ndarray = CLASSES, probability: np.ndarray = NONE, carriers: np.ndarray | None = None
) -> Ranked:
    return Ranked(SUSPICION, IDS, strata, probability, NOBODY if carriers is None else carriers)


def by_counts(rows: Ranked, counts: Counts, right: np.ndarray | None = None) -> FlagChoice:
    return FlagChoice(
        rows.order[: counts.likely_wrong], counts.review, NOBODY if right is None else right, NOBODY
    )


def test_the_most_suspicious_are_removed_and_the_next_reviewed() -> None:
    decision = decided(Detection(), Counts(10, 25))
    assert (decision[:10] == "remove").all()
    assert (decision[10:25] == "review").all()
    assert (decision[25:] == "keep").all()


def test_the_rule_ranking_removes_nothing() -> None:
    decision = decided(Detection(rule="ranking"), Counts(10, 25))
    assert set(decision[:25]) == {"review"}
    assert set(decision[25:]) == {"keep"}


def test_what_a_cap_keeps_back_is_reviewed() -> None:
    decision = decided(Detection(max_removed=0.05), Counts(10, 25))
    assert (decision[:5] == "remove").all()
    assert (decision[5:25] == "review").all()


def test_no_class_loses_more_than_its_share() -> None:
    strata = np.zeros(ROWS, dtype=int)
    strata[:8] = 1
    decision = decided(Detection(max_removed_per_class=0.5), Counts(12, 12), strata=strata)
    assert (decision[:8] == ["remove"] * 4 + ["review"] * 4).all()
    assert (decision[8:12] == "remove").all()


def test_a_sure_suggestion_relabels_instead() -> None:
    probability = NONE.copy()
    probability[[0, 1, 50]] = [0.95, 0.7, 0.99]
    decision = decided(Detection(relabel_above=0.9), Counts(3, 5), probability)
    assert list(decision[:5]) == ["relabel", "remove", "remove", "review", "review"]
    assert decision[50] == "keep"


def test_carriers_of_a_backdoor_go_first_within_the_caps_and_beyond_the_counts() -> None:
    carriers = np.arange(ROWS) >= 92
    decision = decided(Detection(), Counts(10, 25), carriers=carriers)
    assert (decision == "remove").sum() == 18
    assert (decision[92:] == "remove").all()
    assert (decision[10:25] == "review").all()
    capped = decided(Detection(max_removed=0.05), Counts(10, 25), carriers=carriers)
    assert (capped[92:97] == "remove").all()
    assert (capped[97:] == "review").all()
    assert (capped[:25] == "review").all()
    ranking = decided(Detection(rule="ranking"), Counts(10, 25), carriers=carriers)
    assert (ranking[92:] == "review").all()


def test_a_carrier_is_never_relabelled() -> None:
    carriers = np.arange(ROWS) < 3
    decision = decided(Detection(relabel_above=0.5), Counts(3, 5), np.full(ROWS, 0.9), carriers=carriers)
    assert list(decision[:8]) == ["remove"] * 3 + ["relabel"] * 3 + ["review"] * 2


@pytest.mark.parametrize("relabel_above", [None, 0.5])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_class_of_five_rows_is_never_wiped_out(share: float, relabel_above: float | None) -> None:
    strata = np.where(IDS < 5, 1, 0)
    config = Detection(max_removed=1, max_removed_per_class=share, relabel_above=relabel_above)
    decision = decided(config, Counts(60, 60), np.full(ROWS, 0.9), strata)
    changed = np.isin(decision[:5], ["remove", "relabel"])
    assert changed.sum() == (2 if share == 0.5 else 4)
    assert (decision[:5][~changed] == "review").all()


def test_a_row_that_a_person_calls_right_is_never_changed() -> None:
    rows, right = ranked(carriers=IDS == 50), np.isin(IDS, [0, 12, 50])
    decision = np.array(DECISIONS)[decide(Detection(), rows, by_counts(rows, Counts(10, 25), right))]
    assert decision[0] == decision[12] == "keep"
    assert decision[50] == "review"
    assert (decision[1:10] == "remove").all()


def test_what_may_be_removed_is_in_order_and_any_head_of_it_passes_the_caps() -> None:
    carriers = np.isin(IDS, [3, 70])
    strata = np.where(IDS < 9, 1, 0)
    config, rows = Detection(), ranked(strata, carriers=carriers)
    places = removable(config, rows)
    assert places.tolist() == [0, 1, 2, *range(9, 34)]
    for head in (1, 5, len(places)):
        choice = FlagChoice(places[:head], 0, NOBODY, NOBODY)
        removed = np.flatnonzero(decide(config, rows, choice) == Decision.REMOVE)
        assert set(removed) == set(places[:head]) | {3, 70}


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, ROWS), st.integers(0, ROWS))
def test_caps_always_hold(total: float, share: float, wrong: int, more: int) -> None:
    config = Detection(max_removed=total, max_removed_per_class=share)
    removed = decided(config, Counts(wrong, min(ROWS, wrong + more))) == "remove"
    assert removed.sum() <= min(total * ROWS, wrong)
    assert all(removed[c == CLASSES].sum() <= share * 25 for c in range(4))


def test_decisions_do_not_depend_on_the_order_of_rows() -> None:
    tied = np.round(SUSPICION, 1)
    order = np.random.default_rng(0).permutation(ROWS)
    rows = Ranked(tied, IDS, CLASSES, NONE, NOBODY)
    shuffled = Ranked(tied[order], IDS[order], CLASSES[order], NONE, NOBODY)
    one = decide(Detection(), rows, by_counts(rows, Counts(10, 20)))
    two = decide(Detection(), shuffled, by_counts(shuffled, Counts(10, 20)))
    assert (one[order] == two).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_caps_take_the_most_pressing_one_by_one(seed: int, total: float, share: float) -> None:
    random = np.random.default_rng(seed)
    strata, candidates = random.integers(0, 4, 60), random.permutation(60)[:40]
    sizes = [int((strata == each).sum()) for each in range(4)]
    allowed = [min(int(share * size), size - 1) for size in sizes]
    kept = []
    for row in candidates:
        if allowed[strata[row]]:
            allowed[strata[row]] -= 1
            kept.append(row)
    config = Detection(max_removed=total, max_removed_per_class=share)
    assert within_caps(config, candidates, strata).tolist() == kept[: int(total * 60)]
