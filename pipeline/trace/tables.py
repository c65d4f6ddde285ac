"""The tables of a trace, from the strongest and the nearest rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.source_rows import TrainRows
from pipeline.trace.strongest import DIRECTIONS, Table

Decode = Callable[[np.ndarray], pa.Array]


def influences_table(decode: Decode, keys: Sequence[str], found: Table, rows: TrainRows) -> pa.Table:
    """influences.parquet: a line for each query, direction and row, the strongest row first."""
    numbers = {"influence": "influence", "representation_similarity": "similarity"}
    return _table(decode, keys, "direction", DIRECTIONS, found, numbers, rows)


def nearest_table(
    decode: Decode, keys: Sequence[str], measures: Sequence[str], near: Table, rows: TrainRows
) -> pa.Table:
    """nearest.parquet: a line for each query, measure and row, the nearest row first."""
    numbers = {"similarity": "similarity", "influence": "influence"}
    return _table(decode, keys, "measure", measures, near, numbers, rows)


def _table(
    decode: Decode,
    keys: Sequence[str],
    kind: str,
    kinds: Sequence[str],
    found: Table,
    numbers: dict[str, str],
    rows: TrainRows,
) -> pa.Table:
    """A line for each row of `found` `[kinds, queries, top]`; `numbers`: column → the name in `found`."""
    of_kind, query, rank = np.nonzero(found["places"] >= 0)
    order = np.lexsort((rank, of_kind, query))
    at = tuple(each[order] for each in (of_kind, query, rank))
    there = rows.at(found["places"][at])
    labels = rows.labels_at(found["places"][at])
    columns: dict[str, Any] = {
        "query_key": pa.array(keys, pa.string()).take(pa.array(at[1])),
        "query": pa.array(at[1].astype(np.int64)),
        "rank": pa.array((at[2] + 1).astype(np.int32)),
        kind: pa.array(list(kinds)).take(pa.array(at[0])),
        "row_key": there["row_key"],
        **{column: pa.array(found[name][at]) for column, name in numbers.items()},
        "label": decode(found["labels"][at]) if labels is None else labels,
        "decision": there["decision"],
        "shard": there["shard"],
        "row": there["row"],
    }
    return pa.table(columns)
