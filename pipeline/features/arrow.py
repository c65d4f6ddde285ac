"""Arrow columns and types in the terms of the project."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary encoding; views of strings and bytes, for which kernels are lacking, are copied."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = value_type(column.type)
    return column if column.type == kind else column.cast(kind)


def numbers(column: pa.Array) -> np.ndarray:
    """A column of numbers as float64 [rows], null as NaN."""
    return plain(column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of `plain`: without dictionary encoding and views."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def unified(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """The type that values of all these types can be read as; None where there is none."""
    different = list(dict.fromkeys(map(value_type, kinds)))
    if len(different) == 1:
        return different[0]
    try:
        schemas = [pa.schema([("column", kind)]) for kind in different]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def joined(parts: Sequence[pa.Array]) -> pa.Array:
    """Pieces of one column, of types that can be unified, as one array without dictionary encoding."""
    kind = unified([part.type for part in parts])
    return pa.concat_arrays([plain(part).cast(kind) for part in parts])


def taken(table: pa.Table, places: np.ndarray) -> pa.Table:
    """The rows at ascending places, also of types for which Arrow has no kernel."""
    return _column_by_column(table, lambda column: column.take(pa.array(places)), places)


def filtered(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """The rows where the mask (bool `[rows]`) is true, also of types for which Arrow has no kernel."""
    return _column_by_column(table, lambda column: column.filter(pa.array(mask)), np.flatnonzero(mask))


def _column_by_column(
    table: pa.Table, kernel: Callable[[pa.ChunkedArray], pa.ChunkedArray], places: np.ndarray
) -> pa.Table:
    columns = []
    for column in table.columns:
        try:
            columns.append(kernel(column))
        except pa.ArrowNotImplementedError:
            columns.append(_slices(column, places))
    return pa.Table.from_arrays(columns, schema=table.schema)


def _slices(column: pa.ChunkedArray, places: np.ndarray) -> pa.ChunkedArray:
    """The rows at ascending places, as slices of the column."""
    ends = np.flatnonzero(np.diff(places) != 1) + 1
    runs = [run for run in np.split(places, ends) if len(run)]
    chunks = [chunk for run in runs for chunk in column.slice(int(run[0]), len(run)).chunks]
    return pa.chunked_array(chunks, column.type)


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
