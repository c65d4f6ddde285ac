"""Facts about single train rows of a run, by their places among the train rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.catalog import catalog_tables

KEYS = ["row_key", "shard", "row"]


@dataclass(frozen=True)
class TrainRows:
    """places: int64, ascending; table: row_key, shard, row and decision (null before detection), a line per place."""

    places: np.ndarray
    table: pa.Table

    def at(self, places: np.ndarray) -> pa.Table:
        """The lines of some of the places, in their order."""
        return self.table.take(pa.array(np.searchsorted(self.places, places)))


def read_rows(run_path: Path, places: np.ndarray) -> TrainRows:
    """places: int64 among the train rows, in any order, repeated or not."""
    wanted = np.unique(places)
    keys = taken(catalog_tables(run_path, "train", KEYS), wanted)
    path = run_path / "rows.parquet"
    if path.exists():
        with pq.ParquetFile(path) as file:
            groups = (
                file.read_row_group(group, columns=["decision"]) for group in range(file.num_row_groups)
            )
            decisions = taken(groups, wanted)["decision"]
    else:
        decisions = pa.chunked_array([pa.nulls(len(wanted), pa.string())])
    return TrainRows(wanted, keys.append_column("decision", decisions).combine_chunks())


def taken(tables: Iterable[pa.Table], wanted: np.ndarray) -> pa.Table:
    """The lines at ascending places, counted through all tables."""
    parts, before = [], 0
    for table in tables:
        inside = wanted[(wanted >= before) & (wanted < before + table.num_rows)] - before
        parts.append(table.take(pa.array(inside)))
        before += table.num_rows
    return pa.concat_tables(parts)
