from __future__ import annotations

import re
from itertools import product

import numpy as np
from digits_run import ROOT

from pipeline.detection.reasons import ambiguous, in_words, outliers, reasons
from pipeline.text.decisions import DECISIONS, Decision
from pipeline.text.reasons import REASONS, reason_of

PRECEDENCE = ["backdoor", "corrupted", "duplicate-conflict", "outlier"]
PRECEDENCE += ["mislabelled", "ambiguous", "harmful", "reviewed"]


def expected(decision: str, holding: list[str]) -> list[str]:
    if decision == "keep":
        return []
    if "backdoor" in holding:
        return ["backdoor"]
    return holding or ["suspicious"]


def test_every_combination_of_evidence_gives_its_codes_in_the_order_of_precedence() -> None:
    cases = list(product(range(len(DECISIONS)), *[[False, True]] * len(PRECEDENCE)))
    decision, *columns = map(np.array, zip(*cases))
    evidence = dict(
        reversed(list(zip(map(reason_of, PRECEDENCE), columns)))
    )  # the order of the dict must not matter
    found = in_words(reasons(decision.astype(np.uint8), evidence)).to_pylist()
    assert found == [
        expected(DECISIONS[what], [code for code, holds in zip(PRECEDENCE, row) if holds])
        for what, *row in cases
    ]


def test_the_docs_have_the_reasons_in_their_order() -> None:
    page = (ROOT / "docs/reference/signals.md").read_text(encoding="utf-8").partition("## Reasons")[2]
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == [reason.code for reason in REASONS]


def test_without_any_evidence_a_flagged_row_is_suspicious() -> None:
    found = reasons(np.full(1, Decision.REMOVE, np.uint8), {})
    assert in_words(found).to_pylist() == [["suspicious"]]


def test_an_outlier_is_a_row_that_no_other_label_explains() -> None:
    nowhere = np.array([True, True, True, False])
    suggested = np.array([np.nan, 0.49, 0.5, np.nan])
    assert outliers(nowhere, suggested).tolist() == [True, True, False, False]


def test_two_labels_are_plausible_when_the_second_is_half_as_probable_at_the_temperature() -> None:
    best, second = np.array([0.6, 0.6, 0.5]), np.array([0.31, 0.29, 0.5])
    assert ambiguous(best, second, 1.0).tolist() == [True, False, True]
    # At temperature ½ probabilities are squared: (.31 / .6)² = .27 is less than a half, and √½ · .6 = .424.
    assert ambiguous(best, second, 0.5).tolist() == [False, False, True]
    assert ambiguous(np.array([0.6, 0.6]), np.array([0.42, 0.43]), 0.5).tolist() == [False, True]
    nan = np.full(1, np.nan)
    assert ambiguous(nan, nan, 1.0).tolist() == [False]
