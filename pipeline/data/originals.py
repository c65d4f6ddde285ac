"""The original rows behind a report, read from the source shards: a few rows, one row group at a time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.formats.sources import open_source, source_schema
from pipeline.errors import InputError

REFERENCE_ROWS = 20_000

Place = tuple[str, int]  # shard, row in it


@dataclass
class Originals:
    """`rows`: column → scalar by place, without the rows that are no longer there.

    `reference` holds rows from around them (at most REFERENCE_ROWS), to tell what is usual.
    """

    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    rows: dict[Place, dict[str, pa.Scalar]] = field(default_factory=dict)
    reference: pa.Table = field(default_factory=lambda: pa.table({}))


def read_originals(places: Iterable[Place], columns: list[str]) -> Originals:
    """Read `columns` of the rows at `places`. Shards that are gone, moved or unreadable are passed over."""
    by_shard: dict[str, list[int]] = defaultdict(list)
    for shard, row in places:
        by_shard[shard].append(row)
    found = Originals()
    pieces: list[pa.Table] = []
    for shard, wanted in by_shard.items():
        try:
            with open_source(shard) as file:
                found.schema = file.schema_arrow
                for first, table in row_groups(file, columns, wanted):
                    inside = [row for row in wanted if first <= row < first + table.num_rows]
                    taken = table.take([row - first for row in inside])
                    for at, row in enumerate(inside):
                        found.rows[shard, row] = {name: taken[name][at] for name in taken.column_names}
                    if sum(piece.num_rows for piece in pieces) < REFERENCE_ROWS:
                        pieces.append(_usual_columns(table))
        except (OSError, InputError, pa.ArrowException):
            continue
    if pieces:
        found.reference = pa.concat_tables(pieces, promote_options="permissive").slice(0, REFERENCE_ROWS)
    return found


def row_groups(file: pq.ParquetFile, columns: list[str], wanted: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """The row groups that hold any of the wanted rows, each with the place of its first row."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if any(first <= row < first + rows for row in wanted):
            yield first, file.read_row_group(group, columns=columns)
        first += rows


def _usual_columns(table: pa.Table) -> pa.Table:
    """The columns whose values can be common or rare: numbers, booleans and strings."""
    names = [entry.name for entry in table.schema if _is_plain(entry.type)]
    return table.select(names).slice(0, REFERENCE_ROWS)


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def read_column(shard: str, column: str) -> pa.Array | None:
    """One column of one shard; None where the shard can't be read."""
    try:
        with open_source(shard) as file:
            return file.read(columns=[column])[column].combine_chunks()
    except (OSError, KeyError, InputError, pa.ArrowException):
        return None


def read_schema(shard: str) -> pa.Schema | None:
    """The schema of a shard; None where it can't be read."""
    try:
        return source_schema(shard)
    except (OSError, InputError, pa.ArrowException):
        return None


def class_names(schema: pa.Schema, label: str) -> dict[Any, str]:
    """Names of integer classes: the schema's metadata `classes` (JSON list), or a Hugging Face ClassLabel."""
    metadata = schema.metadata or {}
    if label not in schema.names or not pa.types.is_integer(schema.field(label).type):
        return {}
    try:
        if b"classes" in metadata:
            names = json.loads(metadata[b"classes"])
        else:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return dict(enumerate(str(name) for name in names))
    except (KeyError, TypeError, ValueError):
        return {}
