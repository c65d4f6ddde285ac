"""The values of columns that say who made the labels, read from the source shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.data.catalog import catalog_tables
from pipeline.detection.sources.suspect_sources import SourceColumn
from pipeline.detection.table import with_labels
from pipeline.workers.worker import run_config, run_data

SHARD = "shard"
"""The name under which shards are a source; no column of that name is read."""
MOST_DISTINCT = 20
"""Values of a column that is not declared a group and is tested all the same."""
MOST_COLUMNS = 30
"""Such columns that are tested."""


def declared_sources(run_path: Path, roles: Sequence[str] = ("train",)) -> list[SourceColumn]:
    """The columns of data.group and the shards, of the rows of the roles one after the other."""
    data = run_config(run_path).data
    columns = [read_values(run_path, name, roles, seen=name in data.features) for name in data.group]
    return [*columns, shards(run_path, roles)]


def other_columns(run_path: Path, roles: Sequence[str] = ("train",)) -> list[SourceColumn]:
    """Columns of few values that nobody declared a group; features among them.

    Their certainty is ranked among all rows: a hard value is not taken for a bad one, and of a feature only such a
    dependence is found as the judges don't learn.
    """
    first = next(iter(catalog_tables(run_path, "train", ["shard"])))["shard"][0].as_py()
    found = []
    for name in candidates(pq.read_schema(first), run_config(run_path).data):
        if few_values(first, name):
            column = read_values(run_path, name, roles, declared=False)
            if 1 < len(column.values) <= MOST_DISTINCT:
                found.append(column)
        if len(found) == MOST_COLUMNS:
            break
    return found


def candidates(schema: pa.Schema, data: Data) -> list[str]:
    """Columns of text, whole numbers or truth values that have no other part in the audit."""
    taken = {data.label, data.key, data.weight, *data.group}
    if data.split is not None:
        taken.add(data.split.column)
    return [field.name for field in schema if field.name not in taken and is_discrete(field.type)]


def is_discrete(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(test(value) for test in tests)


def few_values(shard: str, column: str) -> bool:
    """Whether the first rows of a shard have at most MOST_DISTINCT values: most columns are ruled out by them."""
    with pq.ParquetFile(shard) as file:
        batch = next(file.iter_batches(10_000, columns=[column]), None)
    return batch is not None and len(batch.column(0).unique()) <= MOST_DISTINCT


def read_values(
    run_path: Path, column: str, roles: Sequence[str], declared: bool = True, seen: bool = False
) -> SourceColumn:
    """A column's values of all rows of the roles."""
    parts = (table["label"] for role in roles for table in with_labels(rows_of(run_path, role), column))
    codes, values = encode(parts, rows_in(run_path, roles))
    return SourceColumn(column, codes, values, declared, seen)


def shards(run_path: Path, roles: Sequence[str]) -> SourceColumn:
    parts = (table["shard"] for role in roles for table in rows_of(run_path, role))
    return SourceColumn(SHARD, *encode(parts, rows_in(run_path, roles)))


def rows_of(run_path: Path, role: str) -> Iterator[pa.Table]:
    return catalog_tables(run_path, role, ["shard", "row"])


def rows_in(run_path: Path, roles: Sequence[str]) -> int:
    return sum(run_data(run_path).count(role) for role in roles)


def encode(parts: Iterator[pa.ChunkedArray], rows: int) -> tuple[np.ndarray, list[str]]:
    """(Codes int64 `[rows]`, the values as text in the order in which they come); null is the value `none`."""
    codes, places, done = np.empty(rows, dtype=np.int64), dict[str, int](), 0
    for part in parts:
        whole = part.combine_chunks()
        if not pa.types.is_dictionary(whole.type):
            whole = whole.dictionary_encode(null_encoding="encode")
        texts = [as_text(value) for value in whole.dictionary.to_pylist()] + [as_text(None)]
        own = whole.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
        present, inverse = np.unique(own, return_inverse=True)
        mapped = np.array([places.setdefault(texts[each], len(places)) for each in present], dtype=np.int64)
        codes[done : done + len(own)] = mapped[inverse]
        done += len(own)
    return codes, list(places)


def as_text(value: object) -> str:
    return "none" if value is None else str(value)
