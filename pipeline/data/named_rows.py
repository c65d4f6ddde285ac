"""Rows that a person names by their keys in a file of their own: CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.catalog import NAME
from pipeline.data.entries import read_entries
from pipeline.data.files import sha256_of
from pipeline.errors import InputError
from pipeline.features.arrow import plain

ROW_KEY = "row_key"
BATCH_ROWS = 65536


def trusted_rows(config: AuditConfig, run_path: Path) -> np.ndarray:
    """Places among the train rows of those that `detection.trusted` names, int64, ascending, each once.

    Raises InputError for a file without keys, and for a row that is not in the train set.
    """
    path = Path(config.detection.trusted or "")
    named = _named_keys(path, [ROW_KEY, *([config.data.key] if config.data.key else [])])
    return _train_places(run_path, named)


def _named_keys(path: Path, columns: list[str]) -> dict[str, str]:
    """Key → where it stands in the file, from the first of `columns` that the file has.

    Raises InputError when the file can't be read, has none of the columns or no rows, or a key is empty.
    """
    named: dict[str, str] = {}
    for place, key in _key_entries(path, columns):
        if not key:
            raise InputError(f"{place}: the key is empty", "Fill it in, or take the line out.")
        named.setdefault(key, place)
    if not named:
        raise InputError(f"{path}: names no row", "Give at least one key.")
    return named


def content_hash(path: str) -> str:
    """Raises InputError when the file is not there."""
    _check_there(Path(path))
    return sha256_of(path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file", f"Relative paths start from {Path.cwd()}.")


def _key_entries(path: Path, columns: list[str]) -> Iterator[tuple[str, str]]:
    """Place and key of every line; of Parquet files the one column alone is read."""
    _check_there(path)
    if path.suffix == ".csv":
        for place, entry in read_entries(path):
            yield place, entry[_chosen_column(path, list(entry), columns)] or ""
        return
    try:
        name = _chosen_column(path, pq.read_schema(path).names, columns)
        values = pq.read_table(path, columns=[name], partitioning=None)[name]
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: can't be read ({reason})", "Give a Parquet or a CSV file.") from None
    for row, value in enumerate(v for chunk in values.chunks for v in plain(chunk).to_pylist()):
        yield f"{path}, row {row}", "" if value is None else str(value)


def _chosen_column(path: Path, there: list[str], columns: list[str]) -> str:
    for name in columns:
        if name in there:
            return name
    wanted = " or ".join(repr(name) for name in reversed(columns))
    raise InputError(
        f"{path}: no column {wanted} (it has {', '.join(map(repr, there[:10]))})",
        f"Rows are named by their keys, as the column {ROW_KEY} of rows.parquet has them.",
    )


def _train_places(run_path: Path, named: dict[str, str]) -> np.ndarray:
    """Places of the keys among the train rows, int64, ascending.

    Raises InputError for a key that the catalog does not know or has under another role.
    """
    waiting, places, before = dict(named), [], 0
    with pq.ParquetFile(run_path / NAME) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=[ROW_KEY, "split"]):
            for key, role in zip(batch[ROW_KEY].to_pylist(), batch["split"].to_pylist()):
                if waiting.pop(key, None) is not None:
                    if role != "train":
                        raise InputError(
                            f"{named[key]}: row {key!r} is a {role} row, and only train rows are judged",
                            "Take it out of this file: rows that training did not see say nothing here.",
                        )
                    places.append(before)
                before += role == "train"
    if waiting:
        (key, place), others = next(iter(waiting.items())), len(waiting) - 1
        more = f"\n({others:,} more {'is' if others == 1 else 'are'} unknown)" if others else ""
        raise InputError(
            f"{place}: no row of the dataset has the key {key!r}",
            f"Keys are those of data.key, else shard-path#row.{more}",
        )
    return np.array(places, dtype=np.int64)
