"""Square pictures behind lists of bytes that say nothing of a shape."""

from __future__ import annotations

import math

import pyarrow as pa

SMALLEST = 64
"""Pixels; a shorter list without a shape in its metadata is just a list."""


def square_shape(size: int) -> tuple[int, ...] | None:
    """The shape of a square grey picture of `size` bytes, else of a square RGB picture; None where it is neither."""
    for channels in (1, 3):
        side = math.isqrt(size // channels)
        if side * side * channels == size:
            return (side, side) if channels == 1 else (side, side, channels)
    return None


def length_of_pictures(values: pa.Array) -> int | None:
    """The length of lists that all have the length of one square picture, as pandas writes pictures; else None."""
    lengths = set(values.value_lengths().drop_null().unique().to_pylist())
    length = lengths.pop() if len(lengths) == 1 else 0
    return length if length >= SMALLEST and square_shape(length) is not None else None


def may_hold_pictures(kind: pa.DataType) -> bool:
    """Whether a type is a list of bytes without a fixed size."""
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_uint8(kind.value_type)
