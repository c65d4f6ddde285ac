from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from .fitted import fit


def test_one_column_per_category_and_one_for_the_others():
    column = pa.array(["b", "a", "b", "c", "c", "c"])
    encoder = fit("category", column)
    assert encoder.categories == ["c", "b", "a"]
    assert encoder.encode(pa.array(["a", "new", "c", None])).tolist() == [
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]


def test_equally_frequent_values_are_taken_in_alphabetical_order():
    encoder = fit("category", pa.array(["z", "m", "a", "m", "z", "a", "q"]), max_categories=2)
    assert encoder.categories == ["a", "m"]
    assert encoder.encode(pa.array(["z"])).tolist() == [[0, 0, 1]]


def test_nulls_in_train_get_a_column_of_their_own():
    column = pa.array(["a", None, "a"])
    encoder = fit("category", column)
    assert encoder.shape == (3,)
    assert encoder.encode(pa.array([None, "new"], pa.string())).tolist() == [[0, 0, 1], [0, 1, 0]]


def test_nulls_outside_train_do_not():
    encoder = fit("category", pa.array(["a", "b", None]), np.array([True, True, False]))
    assert encoder.shape == (3,)


@pytest.mark.parametrize(
    "column",
    [pa.array([3, 1, 3]), pa.array([True, False, True]), pa.array(["x", "y", "x"]).dictionary_encode()],
    ids=["integers", "booleans", "dictionary"],
)
def test_every_kind_of_value_is_compared_as_text(column):
    assert fit("category", column).encode(column).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
