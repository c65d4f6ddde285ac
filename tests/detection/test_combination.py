from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from pipeline.detection.combination import Signal, rank_log_odds, suspicion


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50, unique=True))
def test_rank_log_odds_are_the_logit_of_the_middle_rank(values: list[float]) -> None:
    array = np.array(values)
    share = (rankdata(array) - 0.5) / len(array)
    expected = np.log(share / (1 - share))
    np.testing.assert_allclose(rank_log_odds(array, np.arange(len(array))), expected, atol=1e-9)


def test_ties_are_broken_by_row_id_whatever_the_order_of_rows() -> None:
    values, ids = np.array([1.0, 1.0, 1.0, 0.0]), np.array([30, 10, 20, 40])
    odds = rank_log_odds(values, ids)
    assert list(np.argsort(odds)) == [3, 1, 2, 0]
    shuffled = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(rank_log_odds(values[shuffled], ids[shuffled]), odds[shuffled])


def test_suspicion_is_symmetric_in_its_signals_and_minds_their_direction() -> None:
    rng = np.random.default_rng(0)
    a, b, ids = rng.normal(size=100), rng.normal(size=100), np.arange(100)
    one, two = Signal("a", a, True, ""), Signal("b", b, False, "")
    first, second = suspicion([one, two], ids), suspicion([two, one], ids)
    np.testing.assert_allclose(first, second)
    assert 0 < first.min() < first.max() < 1
    assert np.corrcoef(first, a)[0, 1] > 0.5
    assert np.corrcoef(first, b)[0, 1] < -0.5


def test_one_signal_alone_keeps_its_own_ranking() -> None:
    values, ids = np.array([3.0, 1.0, 2.0]), np.arange(3)
    assert list(np.argsort(suspicion([Signal("a", values, True, "")], ids))) == [1, 2, 0]
