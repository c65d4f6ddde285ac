"""Hashes of rows by their content, by which somebody else's rows are compared with those of a truth bank."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.text import words

BYTES = 8


def row_hashes(rows: np.ndarray | Sequence[str]) -> np.ndarray:
    """The first 8 bytes of SHA-256 of every row: its numbers as little-endian float64, or its text as UTF-8.

    Equal numbers have equal hashes, whatever their dtype.

    Args:
        rows: numbers `[rows, …]`, or texts.

    Returns:
        uint8 `[rows, 8]`.
    """
    if isinstance(rows, np.ndarray):
        flat = np.ascontiguousarray(rows.reshape(len(rows), -1), dtype="<f8")
        contents = [row.tobytes() for row in flat]
    else:
        contents = [row.encode() for row in rows]
    found = b"".join(hashlib.sha256(content).digest()[:BYTES] for content in contents)
    return np.frombuffer(found, dtype=np.uint8).reshape(-1, BYTES)


def check_rows(rows: np.ndarray | Sequence[str], hashes: np.ndarray) -> None:
    """Check that rows have these hashes, uint8 `[rows, 8]`.

    Raises:
        InputError: a row differs, there are more or fewer, or their order is another.
    """
    mine = row_hashes(rows)
    if len(mine) != len(hashes):
        raise InputError(
            f"there are {words.rows(len(mine))}, and the bank has {words.count(len(hashes))}",
            "Take the rows at the bank's places (`read_bank(FILE).row_places`), in its order.",
        )
    (wrong,) = np.nonzero((mine != hashes).any(1))
    if not len(wrong):
        return
    same = sorted(map(bytes, mine)) == sorted(map(bytes, hashes))
    raise InputError(
        f"row {wrong[0]} is not the bank's row {wrong[0]}, and {words.count(len(wrong))} of "
        f"{words.count(len(mine))} rows differ",
        "The rows are those of the bank in another order: sort them as `read_bank(FILE).row_places` says."
        if same
        else "Take the rows at the bank's places (`read_bank(FILE).row_places`), as the dataset has them: "
        "unscaled numbers, unchanged texts.",
    )


def read_rows(path: Path, columns: Sequence[str]) -> np.ndarray | list[str]:
    """Rows of a `.npy` file, or the columns of a Parquet file that a bank's hashes are of.

    Raises:
        InputError: the file is missing or of another kind, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "Give the rows as .npy or as Parquet.")
    if path.suffix == ".npy":
        return read_npy(path)
    table = read_parquet(path)
    for name in columns:
        if name not in table.column_names:
            raise InputError(
                f"{path}: no column {name!r}", f"The bank's hashes are of: {', '.join(columns)}."
            )
    if len(columns) == 1 and pa.types.is_string(table.schema.field(columns[0]).type):
        if table[columns[0]].null_count:
            raise InputError(f"{path}: column {columns[0]!r} has nulls", "Give the texts of the dataset.")
        return [str(text) for text in table[columns[0]].to_pylist()]
    return numbers_of(path, table.select(list(columns)))


def read_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        InputError: the file is damaged, or holds something else than numbers.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an array of numbers ({error})", "Write it with numpy.save.") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub" or not found.ndim:
        raise InputError(
            f"{path}: not an array of numbers", "Write it with numpy.save, as float32 or float64."
        )
    return found


def read_parquet(path: Path) -> pa.Table:
    """The table of a Parquet file.

    Raises:
        InputError: the file is damaged or not Parquet.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file ({error})", "Give .npy or Parquet.") from None


def numbers_of(path: Path, table: pa.Table) -> np.ndarray:
    """The columns of a table side by side, float64 `[rows, numbers]`; a column of lists has several numbers.

    Raises:
        InputError: a column has no numbers, has nulls, or has lists of different lengths.
    """
    parts = []
    for name in table.column_names:
        values, rows = table[name].combine_chunks(), table.num_rows
        nested = pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type)
        flat = values.flatten() if nested else values
        if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
            raise InputError(f"{path}: column {name!r} is {values.type}, not numbers", "Leave it out.")
        if values.null_count or flat.null_count:
            raise InputError(f"{path}: column {name!r} has nulls", "Give a number in every row.")
        if rows and len(flat) % rows:
            raise InputError(f"{path}: column {name!r} has lists of different lengths", "Give equal ones.")
        parts.append(flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(rows, -1))
    return np.concatenate(parts, 1)
