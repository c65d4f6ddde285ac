"""The words that files have for decisions, and what people can answer."""

from __future__ import annotations

import pytest

from pipeline.text.decisions import ANSWERS, CHANGED, DECIDERS, DECISIONS, FLAGGED, Decision
from pipeline.text.reasons import REASONS, precedence, reason_of


def test_words_stand_at_the_places_of_their_numbers() -> None:
    assert DECISIONS == ("keep", "review", "remove", "relabel")
    assert [DECISIONS[decision] for decision in Decision] == [decision.word for decision in Decision]
    assert FLAGGED == ("review", "remove", "relabel")
    assert CHANGED == ("remove", "relabel")
    assert DECIDERS == (None, "rule", "person", "history")
    assert sorted(ANSWERS) == ["keep", "relabel", "remove", "right", "unsure", "wrong"]


def test_a_decision_is_found_by_its_word() -> None:
    assert [Decision.of(word) for word in DECISIONS] == list(Decision)
    with pytest.raises(KeyError):
        Decision.of("drop")


def test_reasons_sort_by_their_order_and_unknown_codes_come_last() -> None:
    codes = [reason.code for reason in REASONS]
    assert sorted(["unheard-of", *reversed(codes)], key=precedence) == [*codes, "unheard-of"]
    assert reason_of("unheard-of").title == "Unheard of"
    assert all(reason_of(code).explanation for code in codes)
