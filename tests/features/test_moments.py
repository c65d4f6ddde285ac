from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.moments import BLOCK, Moments


def moments(values: np.ndarray, cuts: list[int]) -> Moments:
    found = Moments(values.shape[1])
    for part in np.split(values, sorted(cuts)):
        found.update(part)
    found.finish()
    return found


@pytest.mark.parametrize("rows", [1, 7, BLOCK, 2 * BLOCK + 5])
def test_mean_and_deviation_leave_nan_out(rows):
    random = np.random.default_rng(rows)
    values = random.normal([3, -1e6], [2, 1e-2], (rows, 2))
    values[random.random((rows, 2)) < 0.2] = np.nan
    values[0] = [1, 2]
    found = moments(values, [])
    np.testing.assert_array_equal(found.count, (~np.isnan(values)).sum(0))
    np.testing.assert_allclose(found.mean, np.nanmean(values, 0), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(values, 0), rtol=1e-8)


def test_a_small_spread_around_a_large_mean_is_not_lost():
    values = 1.7e9 + np.tile([0.0, 1.0], BLOCK)[:, None]
    assert moments(values, []).std[0] == pytest.approx(0.5, rel=1e-9)


def test_the_deviation_of_equal_values_is_exactly_zero():
    assert moments(np.full((3 * BLOCK, 1), 0.1), []).std[0] == 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2 * BLOCK + 100), max_size=6))
def test_the_bits_do_not_depend_on_the_batches(cuts):
    values = np.random.default_rng(0).normal(size=(2 * BLOCK + 100, 2))
    whole, cut = moments(values, []), moments(values, cuts)
    assert whole.mean.tobytes() == cut.mean.tobytes()
    assert whole.std.tobytes() == cut.std.tobytes()
