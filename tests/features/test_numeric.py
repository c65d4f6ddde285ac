from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from .fitted import create, faults, fit


@pytest.mark.parametrize("kind", ["int8", "uint64", "float32", "double"])
def test_values_are_standardised_by_the_mean_and_deviation_of_the_train_rows(kind):
    column = pa.array([1, 2, 4, 9, 50], kind)
    train = np.array([True, True, True, True, False])
    encoded = fit("numeric", column, train).encode(column)
    values = np.array([1, 2, 4, 9, 50.0])
    expected = (values - values[:4].mean()) / values[:4].std()
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[:, 0], expected, rtol=1e-6)


def test_decimals_are_numbers():
    column = pa.array([Decimal("1.50"), Decimal("2.50")])
    np.testing.assert_allclose(fit("numeric", column).encode(column)[:, 0], [-1, 1])


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, 0.0])
def test_a_constant_column_becomes_zero(value):
    column = pa.array([value] * 7)
    encoder = fit("numeric", column)
    assert encoder.encode(column).tolist() == [[0.0]] * 7
    assert encoder.encode(pa.array([value + 5])).tolist() == [[0.0]]


def test_null_nan_and_infinity_are_faults():
    column = pa.array([1.0, None, float("nan"), float("inf"), 1e200, 2.0])
    assert faults("numeric", column) == [([1, 2, 3, 4], "is null")]
    assert faults("numeric", column.slice(2)) == [([0, 1, 2], "is nan")]


def test_impute_puts_the_train_mean_in_place_of_what_is_not_finite():
    column = pa.array([1.0, None, float("-inf"), 5.0])
    encoder = fit("numeric", column, missing_features="impute")
    assert encoder.mean == [3.0]
    assert encoder.encode(column)[:, 0].tolist() == [-1.0, 0.0, 0.0, 1.0]


def test_a_column_without_a_single_number_is_imputed_as_zero():
    column = pa.array([None, None], pa.float64())
    assert fit("numeric", column, missing_features="impute").encode(column).tolist() == [[0.0], [0.0]]


def test_text_is_not_supported():
    assert not create("numeric", pa.float32()).supports(pa.string())


def test_gaps_in_ten_train_rows_get_a_column_that_says_where_they_are():
    values = [1.0, 3.0] * 10
    gaps = np.array(([None] * 9 + [np.nan]), dtype=object).tolist()
    column = pa.array([*values, *gaps], from_pandas=False)
    encoder = fit("numeric", column, missing_features="impute")
    assert encoder.shape == (2,)
    np.testing.assert_array_equal(encoder.encode(column), [[-1, 0], [1, 0]] * 10 + [[0, 1]] * 10)
    assert [place.title for place in encoder.places] == ["x", "x is missing"]
    fewer = fit("numeric", column.slice(0, 29), missing_features="impute")
    assert (fewer.shape, fewer.read_again, encoder.read_again) == ((1,), True, False)


def test_one_number_or_none_is_a_feature_that_says_which_rows_have_it():
    column = pa.array([7, None] * 10)
    encoder = fit("numeric", column, missing_features="impute")
    assert encoder.encode(column).tolist() == [[0.0, 0.0], [0.0, 1.0]] * 10
