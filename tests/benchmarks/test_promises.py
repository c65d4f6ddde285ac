from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.promises import Audited, review, reviewed, share, trusted


@pytest.fixture
def audited() -> Audited:
    rng = np.random.default_rng(0)
    wrong = np.arange(3000) < 300
    suspicion = rng.normal(3.0 * wrong)
    candidates = np.argsort(-suspicion)[:900]
    return Audited("small/uniform/0.1", wrong, suspicion, np.arange(3000) % 2, candidates, 300, 0)


def test_a_review_ends_at_a_list_of_the_asked_precision(audited: Audited) -> None:
    wrong = audited.wrong[audited.candidates]
    head, answers = review(wrong, 0.8, 300, 0)
    assert wrong[:head].mean() >= 0.8
    assert 57 <= answers < 300
    assert review(np.zeros(900, dtype=bool), 0.8, 300, 0)[0] == 0


def test_both_rules_keep_their_promise_on_simulated_scores(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.promises.REPEATS", 30)
    rows = [*trusted(audited), *reviewed(audited)]
    kept = [row for row in rows if "met" in row]
    assert {row["metric"] for row in kept} == {"false_flag_rate", "promise_kept"}
    assert all(row["met"] and row["n"] == 30 for row in kept)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


@pytest.mark.parametrize(("hits", "number"), [(0, 20), (20, 20), (7, 20)])
def test_shares_have_exact_intervals(hits: int, number: int) -> None:
    expected = binomtest(hits, number).proportion_ci(method="exact")
    found = share(hits, number)
    assert found["low"] == pytest.approx(expected.low)
    assert found["high"] == pytest.approx(expected.high)
