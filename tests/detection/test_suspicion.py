from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.signals.early_harm import harm_weight
from pipeline.detection.signals.weights import weighted
from pipeline.detection.suspicion import SignalValues, rank_log_odds, suspicion


@given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=50))
def test_rank_log_odds_are_the_logit_of_the_middle_rank_and_of_the_mean_one_where_values_are_equal(
    values: list[float],
) -> None:
    array = np.array(values)
    share = (rankdata(array) - 0.5) / len(array)
    np.testing.assert_allclose(rank_log_odds(array), np.log(share / (1 - share)), atol=1e-9)


def test_suspicion_is_symmetric_in_its_signals_and_minds_their_direction() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=100), rng.normal(size=100)
    one, two = SignalValues("a", a, True, ""), SignalValues("b", b, False, "")
    first, second = suspicion([one, two]), suspicion([two, one])
    np.testing.assert_allclose(first, second)
    assert 0 < first.min() < first.max() < 1
    assert np.corrcoef(first, a)[0, 1] > 0.5
    assert np.corrcoef(first, b)[0, 1] < -0.5


def test_one_signal_alone_keeps_its_own_ranking() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert list(np.argsort(suspicion([SignalValues("a", values, True, "")]))) == [1, 2, 0]


def test_a_signal_of_weight_two_counts_as_much_as_itself_and_a_copy() -> None:
    rng = np.random.default_rng(0)
    one, two = (SignalValues(name, rng.normal(size=50), True, "") for name in "ab")
    np.testing.assert_allclose(
        suspicion([one, replace(two, weight=2.0)]), suspicion([one, two, two]), rtol=1e-12
    )


def test_harm_weighs_as_much_as_labels_are_wrong_and_less_where_nobody_knows() -> None:
    shares = {0.0: 0.3, 0.05: 0.3, 0.1: 0.5, 0.2: 1.0, 0.4: 1.0}
    assert [harm_weight(NoiseEstimate(share, 0, 1)) for share in shares] == list(shares.values())
    assert harm_weight(None) == 0.5
    signals = [
        SignalValues(name, np.zeros(2), True, "") for name in ("early_harm", "early_loss", "early_harm_2")
    ]
    found = weighted(signals, NoiseEstimate(0.1, 0, 1))
    assert [signal.weight for signal in found] == [0.5, 1.0, 0.5]
