"""Values of columns in a first look: a sample, counts, and whether they name rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Data, FeatureKind
from pipeline.data.files import Shard
from pipeline.data.formats.folders import is_picture
from pipeline.data.formats.sources import open_source
from pipeline.data.schema import check_schemas
from pipeline.features.arrow import is_bytes, is_string, plain, value_type

KEY_NAMES = {"id", "key", "index", "uuid"}
FILE_NAMES = {"path", "file_name", "filename", "file_path", "file"}
"""Such a column is a key, unless it holds the only pictures there are, by their paths."""
SAMPLE_GROUPS, SAMPLE_ROWS = 8, 2048  # row groups looked into, rows of each
KEY_ROWS = 5_000_000  # in larger data a key is unique as far as the sample shows


def values_of(shards: Sequence[Shard], column: str) -> Iterator[pa.Array]:
    """A column of all shards, a batch at a time, without dictionary encoding."""
    for shard in shards:
        with open_source(shard.path) as file:
            for batch in file.iter_batches(columns=[column]):
                yield plain(batch.column(0))


def count_values(shards: Sequence[Shard], column: str, most: int) -> Counter[Any] | None:
    """How often each value occurs; None if there are more than `most`, not counting null."""
    counts: Counter[Any] = Counter()
    for values in values_of(shards, column):
        for entry in pc.value_counts(values).to_pylist():
            counts[entry["values"]] += entry["counts"]
        if len(counts) - (None in counts) > most:
            return None
    return counts


def read_sample(shards: list[Shard]) -> pa.Table:
    """The first rows of some row groups; not of images, fixed-size lists and types of others, which only take space.

    Raises InputError when a shard lacks a column of the first or has it with another type.
    """
    schema = shards[0].schema
    every: dict[str, FeatureKind] = dict.fromkeys(schema.names, "auto")
    check_schemas(shards, Data.model_construct(train=[], features=every, label=schema.names[0]))
    return sample_of(shards, [f.name for f in schema if not _is_wide(f.type)])


def sample_of(shards: Sequence[Shard], columns: list[str]) -> pa.Table:
    """The first SAMPLE_ROWS rows of SAMPLE_GROUPS row groups, without dictionary encoding."""
    groups = [(shard, group) for shard in shards for group, rows in enumerate(shard.row_groups) if rows]
    tables = []
    for place in np.unique(np.linspace(0, len(groups) - 1, SAMPLE_GROUPS).astype(int)):
        shard, group = groups[place]
        with open_source(shard.path) as file:
            batch = next(file.iter_batches(SAMPLE_ROWS, row_groups=[group], columns=columns))
        tables.append(pa.table({name: plain(batch.column(name)) for name in columns}))
    return pa.concat_tables(tables).combine_chunks()


def _is_wide(kind: pa.DataType) -> bool:
    return is_bytes(kind) or pa.types.is_fixed_size_list(kind) or isinstance(kind, pa.BaseExtensionType)


def is_key(column: str, shards: list[Shard], sample: pa.Table) -> bool:
    """A column with the name of a key or of files whose values are unique, over the files of all roles."""
    kind = value_type(shards[0].schema.field(column).type)
    if not (
        (is_id(column) or _names_files(column, shards[0], sample))
        and (pa.types.is_integer(kind) or is_string(kind))
    ):
        return False
    values = sample[column]
    if sum(shard.rows for shard in shards) <= KEY_ROWS:
        if not all(column in shard.schema.names for shard in shards):
            return False
        values = pa.chunked_array(list(values_of(shards, column)))
    return values.null_count == 0 and count_distinct(values) == len(values)


def _names_files(column: str, shard: Shard, sample: pa.Table) -> bool:
    """Whether it has the name of a column of files, and its pictures, if it names any, are in another column."""
    if column.lower() not in FILE_NAMES or not is_string(value_type(shard.schema.field(column).type)):
        return False
    has_pictures = any(is_bytes(field.type) for field in shard.schema)
    return has_pictures or not any(is_picture(Path(text)) for text in sample[column].drop_null().to_pylist())


def count_distinct(values: pa.Array | pa.ChunkedArray) -> int:
    """Distinct values, not counting null; also of columns without any."""
    return 0 if values.null_count == len(values) else pc.count_distinct(values).as_py()


def is_id(column: str) -> bool:
    return column.lower() in KEY_NAMES or column.lower().endswith(("_id", "_key"))
