from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from .fitted import faults, fit

ROWS = [[1.0, 10.0], [2.0, 10.0], [6.0, 10.0]]


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32(), 2), pa.list_(pa.int16(), 2), pa.list_(pa.float64()), pa.large_list(pa.uint8())],
)
def test_each_element_is_standardised_by_itself(kind):
    column = pa.array(ROWS, kind)
    first = np.array([1, 2, 6.0])
    expected = np.stack([(first - first.mean()) / first.std(), np.zeros(3)], axis=1)
    np.testing.assert_allclose(fit("list", column).encode(column), expected, rtol=1e-6)


def test_a_slice_is_encoded_as_its_own_rows():
    column = pa.array(ROWS, pa.list_(pa.float32(), 2))
    encoder = fit("list", column)
    np.testing.assert_array_equal(encoder.encode(column.slice(1)), encoder.encode(column)[1:])


def test_ragged_lists_are_a_fault():
    column = pa.array([[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0, 3.0]])
    assert faults("list", column) == [([1, 3], "has 1 elements, the first row has 2")]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 2), pa.list_(pa.float64())])
def test_null_lists_and_elements_are_faults(kind):
    column = pa.array([[1.0, 2.0], None, [3.0, None], [float("nan"), 0.0]], kind)
    assert faults("list", column) == [([1], "is null"), ([2, 3], "element 1 is null")]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64(), 2), pa.list_(pa.float64())])
def test_impute_works_per_element(kind):
    column = pa.array([[1.0, 2.0], None, [3.0, None], [None, 6.0]], kind)
    encoder = fit("list", column, missing_features="impute")
    assert encoder.mean == [2.0, 4.0]
    np.testing.assert_allclose(encoder.encode(column), [[-1, -1], [0, 0], [1, 0], [0, 1]])


def test_a_batch_of_null_lists_alone_can_be_imputed():
    column = pa.array([[1.0, 2.0], [3.0, 6.0]])
    encoder = fit("list", column, missing_features="impute")
    assert encoder.encode(pa.array([None], column.type)).tolist() == [[0.0, 0.0]]
