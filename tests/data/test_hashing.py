from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.hashing import content_ids, hex_ids, ids_of_hex, key_ids, with_several

COLUMNS = {
    "integers": pa.array([1, 2, None, 0, 1], pa.int16()),
    "floats": pa.array([0.5, 2.0, None, 0.0, 0.5]),
    "booleans": pa.array([True, False, None, False, True]),
    "text": pa.array(["a", "bc", None, "", "a"]),
    "bytes": pa.array([b"a", b"bc", None, b"", b"a"]),
    "dictionary": pa.array(["a", "bc", None, "", "a"]).dictionary_encode(),
    "images": pa.array([[1, 2], [2, 1], None, [0, 0], [1, 2]], pa.list_(pa.uint8(), 2)),
    "lists": pa.array([[1.0], [1.0, 2.0], None, [], [1.0]]),
    "structs": pa.array(
        [{"bytes": data, "path": str(i)} for i, data in enumerate([b"a", b"b", None, b"", b"a"])]
    ),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_equal_rows_and_only_these_have_equal_ids(column):
    ids = content_ids([column]).tolist()
    assert ids[0] == ids[4]
    # false and a null boolean, 0 and a null number differ too
    assert len({*ids[:3]}) == 3
    assert ids[2] != ids[3]


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_ids_do_not_depend_on_the_batches(column):
    whole = content_ids([column])
    parts = [content_ids([column.slice(start, length)]) for start, length in ((0, 1), (1, 3), (4, 1))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_dictionary_encoding_does_not_matter():
    np.testing.assert_array_equal(content_ids([COLUMNS["dictionary"]]), content_ids([COLUMNS["text"]]))


def test_the_border_between_two_columns_matters():
    one = content_ids([pa.array(["ab"]), pa.array(["c"])])
    other = content_ids([pa.array(["a"]), pa.array(["bc"])])
    assert one[0] != other[0]


def test_nan_and_negative_zero_are_single_values():
    payload = np.array([0x7FF8000000000001], dtype=np.uint64).view(np.float64)[0]
    ids = content_ids([pa.array([np.nan, payload, 0.0, -0.0])])
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]


def test_key_ids_are_the_published_hash():
    # BLAKE2b with a digest of 8 bytes, by `b2sum -l 64`
    assert hex_ids(key_ids(["abc"]).byteswap()) == ["d8bb14d833d59559"]


def test_one_id_per_row_of_an_empty_batch():
    assert len(content_ids([pa.array([], pa.string()), pa.array([], pa.int64())])) == 0


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-2, 2)), max_size=40))
def test_keys_with_several_values_are_found(pairs: list[tuple[int, int]]) -> None:
    keys, values = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    expected = [len({value for other, value in pairs if other == key}) > 1 for key, _ in pairs]
    assert with_several(keys, values).tolist() == expected


def test_ids_survive_being_written_in_hexadecimal() -> None:
    ids = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 100)
    np.testing.assert_array_equal(ids_of_hex(pa.array(hex_ids(ids))), ids)
