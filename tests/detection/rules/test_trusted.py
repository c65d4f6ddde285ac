"""Trusted rows bound the share of right rows that are flagged, on average over draws of trusted rows."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Detection
from pipeline.detection.rules.promises import of_trusted
from pipeline.detection.rules.trusted import flag_by_trusted, needed_rows, p_values

ONE_CLASS = np.zeros(2000, dtype=int)


def draw(rng: np.random.Generator, trusted_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Suspicion of 2,000 rows of which 200 are wrong, which they are, and trusted ones among the right."""
    wrong = np.arange(2000) < 200
    suspicion = rng.normal(3.0 * wrong)
    trusted = np.zeros(2000, dtype=bool)
    trusted[rng.choice(np.flatnonzero(~wrong), trusted_rows, replace=False)] = True
    return suspicion, wrong, trusted


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.03, 33), (0.5, 1)])
def test_a_promise_takes_enough_trusted_rows(rate: float, needed: int) -> None:
    assert needed_rows(rate) == needed
    assert 1 / (needed + 1) <= rate < 1 / needed


def test_p_values_are_the_shares_of_trusted_rows_that_are_as_suspicious() -> None:
    suspicion, trusted = np.array([0.0, 1.0, 2.0, 3.5]), np.array([1.0, 2.0, 3.0])
    expected = [(1 + (trusted >= value).sum()) / 4 for value in suspicion]
    assert p_values(suspicion, trusted).tolist() == expected


@pytest.mark.parametrize("trusted_rows", [99, 150, 400])
def test_the_false_flag_rate_holds_on_average(trusted_rows: int) -> None:
    rng, rates, found = np.random.default_rng(0), [], []
    for _ in range(400):
        suspicion, wrong, trusted = draw(rng, trusted_rows)
        flags = flag_by_trusted(suspicion, trusted, ONE_CLASS, 0.01)
        assert not (flags.flagged & trusted).any()
        rates.append(flags.flagged[~wrong & ~trusted].mean())
        found.append(flags.flagged[wrong].mean())
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) < 0.01 + 3 * error
    assert np.mean(rates) > 0.003
    assert np.mean(found) > 0.4


def test_too_few_trusted_rows_abstain_with_the_number_that_is_needed() -> None:
    suspicion, _, trusted = draw(np.random.default_rng(0), 98)
    flags = flag_by_trusted(suspicion, trusted, ONE_CLASS, 0.01)
    assert flags.abstains
    assert not flags.flagged.any()
    promise = of_trusted(Detection(rule="trusted", trusted="t"), flags)
    assert promise.abstains
    assert promise.false_flag_rate is None
    assert "98 trusted rows, and at least 99 are needed" in promise.text


def test_each_class_has_its_own_bound_where_all_have_enough_trusted_rows() -> None:
    rng = np.random.default_rng(1)
    hard = np.arange(2000) % 2
    suspicion = rng.normal(5.0 * hard)  # the right rows of one class are far more suspicious
    trusted = rng.random(2000) < 0.3
    flags = flag_by_trusted(suspicion, trusted, hard, 0.05)
    assert flags.by_class
    of_classes = [flags.flagged[(hard == each) & ~trusted].mean() for each in (0, 1)]
    assert all(0.01 < share < 0.1 for share in of_classes)
    few = trusted & ((hard == 0) | (np.cumsum(trusted) < 20))
    pooled = flag_by_trusted(suspicion, few, hard, 0.05)
    assert not pooled.by_class


def test_a_thousand_classes_are_taken_together() -> None:
    rng = np.random.default_rng(2)
    classes = np.arange(20000) % 1000
    flags = flag_by_trusted(rng.normal(size=20000), rng.random(20000) < 0.1, classes, 0.01)
    assert not flags.by_class
    assert not flags.abstains
    assert 0.003 < flags.flagged.mean() < 0.02
