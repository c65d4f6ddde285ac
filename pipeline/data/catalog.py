"""The catalog of a run: one line per row that takes part, catalog.parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES
from pipeline.data.files import Shard
from pipeline.data.hashing import hex_ids
from pipeline.data.splits import ASIDE
from pipeline.runs.directory import write_atomically

NAME = "catalog.parquet"
SCHEMA = pa.schema(
    [
        ("row_key", pa.string()),
        ("shard", pa.string()),
        ("row_group", pa.int32()),
        ("row", pa.int64()),
        ("content_hash", pa.string()),
        ("features_hash", pa.string()),
        ("split", pa.string()),
    ]
)


class CatalogWriter:
    def __init__(self, writer: pq.ParquetWriter):
        self.writer = writer

    def add(
        self,
        shard: Shard,
        rows: np.ndarray,
        keys: Sequence[str],
        contents: np.ndarray,
        features: np.ndarray,
        roles: np.ndarray,
    ) -> None:
        """Append rows of one shard: places, keys, ids of contents and features, role codes; all [rows]."""
        shards = pa.DictionaryArray.from_arrays(np.zeros(len(rows), np.int8), pa.array([shard.path]))
        splits = pa.DictionaryArray.from_arrays(roles.astype(np.int8), pa.array([*ROLES, ASIDE]))
        columns = [
            pa.array(keys, pa.string()),
            shards.dictionary_decode(),
            pa.array(shard.row_group_of(rows)),
            pa.array(rows),
            pa.array(hex_ids(contents), pa.string()),
            pa.array(hex_ids(features), pa.string()),
            splits.dictionary_decode(),
        ]
        self.writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


@contextmanager
def write_catalog(run_path: Path) -> Iterator[CatalogWriter]:
    """A catalog that is there, complete, only when the block ends well."""
    with (
        write_atomically(run_path / NAME) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        yield CatalogWriter(writer)


def read_catalog(run_path: Path, role: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The catalog in the order of the encoded rows, or the lines of one role."""
    filters = [("split", "==", role)] if role else None
    names = list(columns) if columns else SCHEMA.names
    return pq.read_table(run_path / NAME, columns=names, filters=filters, partitioning=None)


def catalog_tables(run_path: Path, role: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The lines of a role in the order of the encoded rows, a few thousand rows of one shard at a time."""
    with pq.ParquetFile(run_path / NAME) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=[*columns, "split"])
            table = table.filter(pc.equal(table["split"], role)).select(list(columns))
            if table.num_rows:
                yield table
