from __future__ import annotations

import numpy as np
import pyarrow as pa

from .fitted import faults, fit


def test_truth_values_become_zero_and_one():
    column = pa.array([True, False, True])
    encoded = fit("boolean", column).encode(column)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1.0], [0.0], [1.0]]


def test_integers_may_be_zero_and_one_only():
    assert fit("boolean", pa.array([0, 1])).encode(pa.array([1, 0])).tolist() == [[1.0], [0.0]]
    assert faults("boolean", pa.array([0, 1, 7, 2])) == [([2, 3], "is 7")]


def test_null_is_a_fault_or_the_share_of_true():
    column = pa.array([True, None, True, False, True])
    assert faults("boolean", column) == [([1], "is null")]
    assert fit("boolean", column, missing_features="impute").encode(column)[1].tolist() == [0.75]


def test_nulls_in_ten_train_rows_get_a_column_that_says_where_they_are():
    column = pa.array([True, None] * 10)
    encoder = fit("boolean", column, missing_features="impute")
    assert encoder.encode(column).tolist() == [[1.0, 0.0], [1.0, 1.0]] * 10
    assert [place.title for place in encoder.places] == ["x", "x is missing"]
