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
    """places: int64, ascending; table: row_key, shard, row and decision (null before detection), a line per place;
    labels: as the source has them, None before detection.
    """

    places: np.ndarray
    table: pa.Table
    labels: pa.ChunkedArray | None

    def at(self, places: np.ndarray) -> pa.Table:
        """The lines of some of the places, in their order."""
        return self.table.take(self.lines(places))

    def labels_at(self, places: np.ndarray) -> pa.ChunkedArray | None:
        return None if self.labels is None else self.labels.take(self.lines(places))

    def lines(self, places: np.ndarray) -> pa.Array:
        return pa.array(np.searchsorted(self.places, places))


def read_rows(run_path: Path, places: np.ndarray) -> TrainRows:
    """places: int64 among the train rows, in any order, repeated or not."""
    wanted = np.unique(places)
    keys = _taken(catalog_tables(run_path, "train", KEYS), wanted)
    path = run_path / "rows.parquet"
    if not path.exists():
        decisions = pa.chunked_array([pa.nulls(len(wanted), pa.string())])
        return TrainRows(wanted, keys.append_column("decision", decisions).combine_chunks(), None)
    with pq.ParquetFile(path) as file:
        columns = ["decision", "label"]
        groups = (file.read_row_group(group, columns=columns) for group in range(file.num_row_groups))
        judged = _taken(groups, wanted)
    table = keys.append_column("decision", judged["decision"]).combine_chunks()
    return TrainRows(wanted, table, judged["label"])


def _taken(tables: Iterable[pa.Table], wanted: np.ndarray) -> pa.Table:
    """The lines at ascending places, counted through all tables."""
    parts, before = [], 0
    for table in tables:
        inside = wanted[(wanted >= before) & (wanted < before + table.num_rows)] - before
        parts.append(table.take(pa.array(inside)))
        before += table.num_rows
    return pa.concat_tables(parts)
