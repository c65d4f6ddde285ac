"""Arrow columns and types in the terms of the project."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary encoding."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def numbers(column: pa.Array) -> np.ndarray:
    """A column of numbers as float64 [rows], null as NaN."""
    return plain(column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionary encoding."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_numeric(kind: pa.DataType) -> bool:
    """Integers, floats and decimals."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_categorical(kind: pa.DataType) -> bool:
    """Strings, integers and booleans."""
    return bool(is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def is_fixed_width(kind: pa.DataType) -> bool:
    """Integers, floats and booleans."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def is_list(kind: pa.DataType) -> bool:
    """Lists of any length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Binary columns, and the struct of bytes and path that Hugging Face datasets write."""
    if pa.types.is_struct(kind):
        places = kind.get_all_field_indices("bytes")
        return len(places) == 1 and is_bytes(kind.field(places[0]).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def with_values(
    column: pa.Array, places: np.ndarray, new: pa.Array, categories: pa.Array | None = None
) -> pa.Array:
    """The column with other values at some places, in its type.

    Args:
        column: of any type; a chunked one if it is no dictionary.
        places: int64, ascending.
        new: a value for each of the places.
        categories: values that the dictionary of a column gets in any case; it keeps the order of those that it has.
    """
    kind = column.type
    if not pa.types.is_dictionary(kind):
        values = column.to_pylist()
        for place, value in zip(places, new.cast(kind).to_pylist()):
            values[place] = value
        return pa.array(values, kind)
    codes, known = column.indices.to_pylist(), column.dictionary.to_pylist()
    added = new if categories is None else categories
    known += [
        value for value in plain(added).cast(kind.value_type).unique().to_pylist() if value not in known
    ]
    for place, value in zip(places, plain(new).cast(kind.value_type).to_pylist()):
        codes[place] = known.index(value)
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, kind.index_type), pa.array(known, kind.value_type), ordered=kind.ordered
    )
