"""64-bit hashes of row keys and of row contents (BLAKE2b)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.arrow import is_fixed_width, is_list

DIGEST = 8  # bytes


def key_ids(keys: Sequence[str]) -> np.ndarray:
    """Ids of row keys: int64 [rows], the same on every machine and in every run."""
    return _as_ids(key.encode() for key in keys)


def _as_ids(messages: Iterable[bytes | memoryview]) -> np.ndarray:
    """A 64-bit hash of each message: int64."""
    joined = b"".join(hashlib.blake2b(message, digest_size=DIGEST).digest() for message in messages)
    return np.frombuffer(joined, dtype="<i8")


def content_ids(columns: Sequence[pa.Array]) -> np.ndarray:
    """A 64-bit hash per row over all columns, in the order given: int64 [rows].

    Equal values hash equally, whatever the batches and the dictionary encoding. A null differs from each
    value but counts as 0 inside a list; −0 equals 0 and all NaN are equal.
    """
    return ids_of_parts([[column] for column in columns])


def ids_of_parts(columns: Sequence[Iterable[pa.Array]]) -> np.ndarray:
    """The `content_ids` of columns that come part by part, so that no column is in memory as a whole."""
    bodies = [np.concatenate([_column_bytes(part) for part in column]) for column in columns]
    table = np.ascontiguousarray(np.concatenate(bodies, axis=1))
    return _as_ids(pieces(table, np.arange(len(table) + 1) * table.shape[1]))


def hex_ids(ids: np.ndarray) -> list[str]:
    """Each id as 16 hexadecimal digits."""
    return [f"{value:016x}" for value in ids.view(np.uint64).tolist()]


def ids_of_hex(column: pa.Array) -> np.ndarray:
    """The ids that `hex_ids` wrote: int64 [rows]."""
    joined = bytes.fromhex("".join(column.to_pylist()))
    return np.frombuffer(joined, dtype=">u8").astype(np.uint64).view(np.int64)


def with_several(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """True where a row's key occurs with more than one value: bool [rows]."""
    order = np.argsort(keys, kind="stable")
    ordered, of_ordered = keys[order], values[order]
    del order
    differs = (ordered[1:] == ordered[:-1]) & (of_ordered[1:] != of_ordered[:-1])
    several = np.unique(ordered[1:][differs])
    if not len(several):
        return np.zeros(len(keys), dtype=bool)
    place = np.minimum(np.searchsorted(several, keys), len(several) - 1)
    return several[place] == keys


def _column_bytes(column: pa.Array) -> np.ndarray:
    """A column as bytes of fixed width: uint8 [rows, width]. The last byte says whether there is a value."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_struct(column.type):
        column = pc.struct_field(column, "bytes")
    valid = column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)
    body = _value_bytes(column, valid.astype(bool))
    return np.concatenate([body, valid[:, None]], axis=1)


def _value_bytes(column: pa.Array, valid: np.ndarray) -> np.ndarray:
    rows = len(column)
    if is_fixed_width(column.type):
        return _number_bytes(column)
    if pa.types.is_fixed_size_list(column.type) and is_fixed_width(column.type.value_type):
        flat = _number_bytes(column.flatten())  # leaves null lists out
        body = np.zeros((rows, column.type.list_size * flat.shape[1]), dtype=np.uint8)
        body[valid] = flat.reshape(-1, body.shape[1])
        return body
    if is_list(column.type) and is_fixed_width(column.type.value_type):
        flat = _number_bytes(column.flatten())
        lengths = column.value_lengths().fill_null(0).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]) * flat.shape[1]
        return _as_ids(pieces(flat, offsets)).view(np.uint8).reshape(rows, DIGEST)
    return _text_bytes(column)


def _number_bytes(column: pa.Array) -> np.ndarray:
    """Numbers and booleans as uint8 [values, bytes of one]; null as zero."""
    values = column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values + values.dtype.type(0))
    values = np.ascontiguousarray(values)
    return values.view(np.uint8).reshape(len(values), values.dtype.itemsize)


def _text_bytes(column: pa.Array) -> np.ndarray:
    """Text, bytes and what can be written as text, hashed: uint8 [rows, 8]."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = column.cast(pa.large_string())
    column = column.cast(pa.large_binary()).fill_null(b"")
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    flat = np.frombuffer(data, dtype=np.uint8) if data else np.empty(0, dtype=np.uint8)
    return _as_ids(pieces(flat, ends)).view(np.uint8).reshape(len(column), DIGEST)


def pieces(array: np.ndarray, offsets: np.ndarray) -> Iterable[memoryview]:
    """Slices of an array's bytes between consecutive offsets (bytes)."""
    view = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
    return (view[start:end] for start, end in pairwise(offsets.tolist()))
