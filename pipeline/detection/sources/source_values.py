"""Reads from the shards the values of columns that may say who made the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.catalog import catalog_tables
from pipeline.data.formats.sources import open_source, source_schema
from pipeline.detection.sources.suspect_sources import SourceColumn
from pipeline.detection.table import with_labels
from pipeline.workers.worker import run_config, run_data

SHARD = "shard"
"""The name for shards as a source; a column with this name is not read."""
MOST_DISTINCT = 20
"""Columns that are not in data.group are tested if they have at most so many values."""
MOST_COLUMNS = 30
"""At most so many columns that are not in data.group are tested."""


def declared_sources(run_path: Path, roles: Sequence[str] = ("train",)) -> list[SourceColumn]:
    """The columns of data.group and the shards, for the rows of all roles in order."""
    data = run_config(run_path).data
    columns = [read_values(run_path, name, roles, seen=name in data.features) for name in data.group]
    return [*columns, shards(run_path, roles)]


def other_columns(run_path: Path, roles: Sequence[str] = ("train",)) -> list[SourceColumn]:
    """The columns with few values that are not in data.group, features included.

    Certainty is ranked among all rows, so that a hard value does not count as a bad one. For a feature, only a
    dependence that the judges don't learn is found.
    """
    first = next(iter(catalog_tables(run_path, "train", ["shard"])))["shard"][0].as_py()
    found = []
    for name in candidates(source_schema(first), run_config(run_path).data):
        if _few_values(first, name):
            column = read_values(run_path, name, roles, declared=False)
            if 1 < len(column.values) <= MOST_DISTINCT:
                found.append(column)
        if len(found) == MOST_COLUMNS:
            break
    return found


def candidates(schema: pa.Schema, data: Data) -> list[str]:
    """The columns of text, integers or booleans that have no other role in the audit."""
    taken = {data.label, data.key, data.weight, *data.group}
    if data.split is not None:
        taken.add(data.split.column)
    return [field.name for field in schema if field.name not in taken and _is_discrete(field.type)]


def _is_discrete(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(test(value) for test in tests)


def _few_values(shard: str, column: str) -> bool:
    """Whether the first rows of a shard have at most MOST_DISTINCT values, which rules most columns out."""
    with open_source(shard) as file:
        batch = next(file.iter_batches(10_000, columns=[column]), None)
    return batch is not None and len(batch.column(0).unique()) <= MOST_DISTINCT


def read_values(
    run_path: Path, column: str, roles: Sequence[str], declared: bool = True, seen: bool = False
) -> SourceColumn:
    """Read the values of a column for all rows of the roles."""
    parts = (table["label"] for role in roles for table in with_labels(_rows_of(run_path, role), column))
    codes, values = encode(parts, rows_in(run_path, roles))
    return SourceColumn(column, codes, values, declared, seen)


def shards(run_path: Path, roles: Sequence[str]) -> SourceColumn:
    parts = (table["shard"] for role in roles for table in _rows_of(run_path, role))
    return SourceColumn(SHARD, *encode(parts, rows_in(run_path, roles)))


def _rows_of(run_path: Path, role: str) -> Iterator[pa.Table]:
    return catalog_tables(run_path, role, ["shard", "row"])


def rows_in(run_path: Path, roles: Sequence[str]) -> int:
    return sum(run_data(run_path).count(role) for role in roles)


def encode(parts: Iterator[pa.ChunkedArray], rows: int) -> tuple[np.ndarray, list[str]]:
    """Codes, int64 `[rows]`, and the values as text in the order of their first rows; null is the value `none`."""
    codes, places, done = np.empty(rows, dtype=np.int64), dict[str, int](), 0
    for part in parts:
        whole = part.combine_chunks()
        if not pa.types.is_dictionary(whole.type):
            whole = whole.dictionary_encode(null_encoding="encode")
        texts = [_as_text(value) for value in whole.dictionary.to_pylist()] + [_as_text(None)]
        own = whole.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
        present, inverse = np.unique(own, return_inverse=True)
        mapped = np.array([places.setdefault(texts[each], len(places)) for each in present], dtype=np.int64)
        codes[done : done + len(own)] = mapped[inverse]
        done += len(own)
    return codes, list(places)


def _as_text(value: object) -> str:
    return "none" if value is None else str(value)
