"""Columns of pictures that stand in files of their own: paths, and the bytes behind them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.arrow import is_string, plain
from pipeline.features.decoding import decode_to

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm"),
)
"""Of the names of picture files, lower case."""
SCHEMES = ("http://", "https://", "ftp://", "s3://", "gs://", "hf://")
FILES_AT_ONCE = 16  # whose bytes are in memory
SMALL = 8  # pixels a side, to which a picture is read that is only tried
NOT_EMBEDDED = "the bytes are not embedded"


class AddressError(OSError):
    """An address on the web in place of a file."""


def has_ending(text: str) -> bool:
    """Whether a text ends as the name of a picture file does."""
    return text.lower().endswith(ENDINGS)


def is_address(text: str) -> bool:
    """Whether a text is an address on the web."""
    return text.lower().startswith(SCHEMES)


def placed(column: pa.Array, folder: str | os.PathLike[str]) -> pa.Array:
    """The column with absolute paths: relative ones start from `folder`; other columns as they are.

    Args:
        column: paths, or structs of bytes and path, whose paths count where the bytes are null.
        folder: the root.
    """
    column = plain(column)
    if is_string(column.type):
        return pa.array([_absolute(path, folder) for path in column.to_pylist()], pa.string())
    if not _names_files(column):
        return column
    data, paths = pc.struct_field(column, "bytes"), pc.struct_field(column, "path")
    absolute = pa.array([_absolute(path, folder) for path in paths.to_pylist()], pa.string())
    return pa.StructArray.from_arrays([data, absolute], ["bytes", "path"])


def _absolute(path: str | None, folder: str | os.PathLike[str]) -> str | None:
    return None if path is None else path if is_address(path) else os.path.abspath(PurePath(folder, path))  # noqa: PTH100


def _names_files(column: pa.Array) -> bool:
    """Whether a struct has a path where its bytes are null."""
    if not (pa.types.is_struct(column.type) and "path" in column.type.names):
        return False
    if not is_string(column.type.field("path").type):
        return False
    missing = pc.is_null(pc.struct_field(column, "bytes"))
    return bool(pc.any(pc.and_(missing, pc.is_valid(pc.struct_field(column, "path")))).as_py())


def reads_files(column: pa.Array) -> bool:
    """Whether some of the pictures stand in files: paths, or structs with a path and no bytes."""
    return is_string(plain(column).type) or _names_files(plain(column))


def contents(column: pa.Array) -> Iterator[bytes | OSError | None]:
    """The bytes of each picture, one at a time; None for null; the error where a file can't be read.

    Args:
        column: bytes, absolute paths, or structs of both (`placed`).
    """
    column = plain(column)
    if pa.types.is_struct(column.type):
        data = pc.struct_field(column, "bytes")
        if not _names_files(column):
            yield from (value.as_py() for value in data)
            return
        for value, path in zip(data, pc.struct_field(column, "path")):
            found = read_picture(path.as_py()) if not value.is_valid and path.is_valid else value.as_py()
            yield type(found)(f"{NOT_EMBEDDED}, and {found}") if isinstance(found, OSError) else found
        return
    for value in column:
        known = value.as_py()
        yield read_picture(known) if isinstance(known, str) else known


def read_picture(path: str) -> bytes | OSError:
    """The bytes of a file, or why it can't be read, in words."""
    if is_address(path):
        return AddressError(f"{path} is a web address")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return OSError(f"there is no file {path}")
    except (OSError, ValueError) as error:  # ValueError: a null character
        return OSError(f"{path} can't be read ({getattr(error, 'strerror', None) or error})")


def contents_in_parts(column: pa.Array) -> Iterator[pa.Array]:
    """The pictures' bytes, wherever they stand: the column, or the bytes of a few files at a time."""
    if not reads_files(column):
        yield column
        return
    for start in range(0, max(1, len(column)), FILES_AT_ONCE):
        yield embedded(column.slice(start, FILES_AT_ONCE))


def embedded(column: pa.Array) -> pa.Array:
    """The column as bytes, null where there are none: what stands in files is read."""
    found = (None if isinstance(each, OSError) else each for each in contents(column))
    return pa.array(found, pa.large_binary())


def why_no_picture(value: pa.Scalar) -> str:
    """Why a cell gives no picture, in words; empty if only the shape of the pixels is wrong."""
    if not value.is_valid:
        return "it is null"
    if isinstance(value, pa.ListScalar):
        return ""
    (data,) = contents(pa.array([value.as_py()], value.type))
    if data is None:
        return "it is null"
    if isinstance(data, OSError):
        return str(data)
    try:
        decode_to(data, SMALL, SMALL)
    except ValueError as error:
        return f"it {error}"
    return ""
