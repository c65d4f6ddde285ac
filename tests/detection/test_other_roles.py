"""Rows of validation and holdout: judged on the train rows' scale, decided as train rows of the same suspicion."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Detection
from pipeline.detection.other_roles import Cuts, RoleEvidence, cuts_of, decide_role, suspicion_like_train
from pipeline.text.decisions import Decision

KEEP, REVIEW, REMOVE, RELABEL = Decision

CUTS = Cuts(remove=0.8, review=0.5)


def evidence(rows: int, **changes: np.ndarray) -> RoleEvidence:
    usual = {
        "doubt": np.linspace(0, 1, rows),
        "suggested": np.zeros(rows, dtype=np.int64),
        "probability": np.full(rows, 0.6),
        "contradicted": np.ones(rows, dtype=bool),
        "removable": np.ones(rows, dtype=bool),
        "strata": np.zeros(rows, dtype=np.int64),
        "is_ambiguous": np.zeros(rows, dtype=bool),
    }
    return RoleEvidence(**(usual | changes), signals=[])


def test_a_row_has_the_suspicion_of_the_train_rows_that_are_doubted_as_much() -> None:
    rng = np.random.default_rng(0)
    doubt = rng.uniform(size=500)
    suspicion = 3 * np.sort(rng.normal(size=500))[np.argsort(np.argsort(doubt))]
    again = suspicion_like_train(doubt, doubt, suspicion)
    assert again == pytest.approx(suspicion)


def test_suspicion_rises_with_doubt_and_stays_within_the_train_rows() -> None:
    rng = np.random.default_rng(1)
    of_train, suspicion = rng.uniform(0.2, 0.8, 300), rng.normal(size=300)
    found = suspicion_like_train(np.linspace(0, 1, 50), of_train, suspicion)
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (suspicion.min(), suspicion.max())


def test_rows_that_are_doubted_alike_have_one_suspicion() -> None:
    found = suspicion_like_train(np.zeros(3), np.zeros(100), np.arange(100.0))
    assert found == pytest.approx(np.full(3, 49.5))


def test_other_rows_with_the_same_noise_are_flagged_as_often() -> None:
    rng = np.random.default_rng(2)
    of_train, others = rng.beta(1, 4, 4000), rng.beta(1, 4, 1000)
    suspicion = of_train + 0.1 * rng.normal(size=4000)
    cut = float(np.quantile(suspicion, 0.9))
    flagged = suspicion_like_train(others, of_train, suspicion) >= cut
    assert flagged.mean() == pytest.approx(0.1, abs=0.03)


def test_the_cuts_are_the_least_suspicions_that_the_ranking_sent_away() -> None:
    suspicion = np.arange(6.0)
    decision = np.array([REMOVE, KEEP, REVIEW, REVIEW, RELABEL, REMOVE], dtype=np.uint8)
    by_ranking = np.array([False, True, True, True, True, True])
    assert cuts_of(suspicion, decision, by_ranking) == Cuts(remove=4, review=2)
    assert cuts_of(suspicion, np.zeros(6, dtype=np.uint8), by_ranking) == Cuts(None, None)


def test_rows_are_decided_as_train_rows_of_the_same_suspicion() -> None:
    suspicion = np.array([0.4, 0.5, 0.7, 0.8, 0.9])
    config = Detection(max_removed=1.0, max_removed_per_class=1.0)
    found = decide_role(config, suspicion, evidence(5), CUTS)
    assert found.tolist() == [KEEP, REVIEW, REVIEW, REMOVE, REMOVE]
    assert decide_role(config, suspicion, evidence(5), Cuts(None, 0.5)).tolist() == [KEEP] + [REVIEW] * 4
    assert decide_role(config, suspicion, evidence(5), Cuts(None, None)).tolist() == [KEEP] * 5


def test_a_row_with_a_sure_suggestion_is_relabelled() -> None:
    suspicion = np.full(4, 0.9)
    seen = evidence(
        4,
        probability=np.array([0.95, 0.7, 0.95, 0.95]),
        contradicted=np.array([True, True, False, True]),
        strata=np.arange(4) // 4,
    )
    config = Detection(max_removed=1.0, max_removed_per_class=1.0, relabel_above=0.8)
    found = decide_role(config, suspicion, seen, CUTS)
    assert found.tolist() == [RELABEL, REMOVE, REMOVE, REVIEW]  # a class keeps a row
    never = config.model_copy(update={"relabel_above": None})
    assert RELABEL not in decide_role(never, suspicion, seen, CUTS)


def test_protected_rows_are_reviewed() -> None:
    seen = evidence(4, removable=np.array([True, False, True, False]))
    config = Detection(max_removed=1.0, max_removed_per_class=1.0)
    assert decide_role(config, np.full(4, 0.9), seen, CUTS).tolist() == [REMOVE, REVIEW, REMOVE, REVIEW]


def test_the_caps_hold_in_every_role_and_the_most_suspicious_go_first() -> None:
    rng = np.random.default_rng(3)
    suspicion, strata = rng.uniform(0.8, 1, 100), np.repeat([0, 1], [80, 20])
    config = Detection(max_removed=0.3, max_removed_per_class=0.25)
    found = decide_role(config, suspicion, evidence(100, strata=strata), CUTS)
    removed = found == REMOVE
    assert set(found.tolist()) == {REMOVE, REVIEW}
    assert [int(removed[strata == k].sum()) for k in (0, 1)] == [20, 5]
    for k in (0, 1):
        assert suspicion[removed & (strata == k)].min() > suspicion[~removed & (strata == k)].max()
    tight = config.model_copy(update={"max_removed": 0.1})
    assert (decide_role(tight, suspicion, evidence(100, strata=strata), CUTS) == REMOVE).sum() == 10


@pytest.mark.parametrize("rule", [{"rule": "ranking"}, {"rule": "trusted", "trusted": "keys.csv"}])
def test_rules_about_train_rows_remove_nothing_from_other_roles(rule: dict[str, str]) -> None:
    found = decide_role(Detection.model_validate(rule), np.array([0.1, 0.9]), evidence(2), CUTS)
    assert found.tolist() == [KEEP, REVIEW]
