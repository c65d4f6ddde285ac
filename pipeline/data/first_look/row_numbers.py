"""Columns that count or name rows: the index that pandas stored, row numbers, ids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.data.files import Shard
from pipeline.data.first_look.columns import KEY_ROWS, values_of
from pipeline.features.arrow import is_numeric, numbers

INDEX_NAME = re.compile(r"__index_level_\d+__|unnamed:? ?\d+([._]\d+)*|", re.IGNORECASE)
"""What pandas calls an index without a name, in Parquet and in CSV."""
BY_CHANCE = 1e-6
"""So improbable it is that numbers drawn at random are all different, or all rise: then they name rows."""
FEWEST = 20
"""Rows; of fewer nothing is concluded from their order."""
EXACT = 2**53
"""Whole numbers up to it are exact in float64."""


def is_pandas_index(schema: pa.Schema, name: str) -> bool:
    """Whether pandas stored the column as an index, by the schema's metadata or by the name."""
    if INDEX_NAME.fullmatch(name.strip()):
        return True
    try:
        levels = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return name in [level for level in levels if isinstance(level, str)]
    except (KeyError, TypeError, ValueError):
        return False


def counts_rows(name: str, shards: Sequence[Shard]) -> str:
    """What a column of whole numbers that are all different says of the rows' order; empty for other columns.

    It looks at the first KEY_ROWS rows, file by file. Numbers may begin anew in every file.
    """
    found: list[np.ndarray] = []
    rows = 0
    for shard in shards:
        values = _whole(shard, name, KEY_ROWS - rows)
        if not _all_differ(values):
            return ""
        found.append(values)
        rows += len(values)
        if rows >= KEY_ROWS:
            break
    if rows < FEWEST:
        return ""
    steps = np.concatenate([np.diff(values) for values in found])
    if (steps == 1).all():
        return "row numbers"
    if (steps > 0).all() or (steps < 0).all():
        return "whole numbers that rise or fall from row to row, like row numbers"
    together = np.concatenate(found)
    width = int(together.max()) - int(together.min()) + 1
    if _all_differ(together) and np.exp(-rows * (rows - 1) / (2 * width)) < BY_CHANCE:
        return "whole numbers of which none occurs twice, like row numbers"
    return ""


def _whole(shard: Shard, name: str, most: int) -> np.ndarray:
    """A file's first values as whole numbers, int64; empty where one is missing, or is none."""
    parts: list[np.ndarray] = []
    for values in values_of([shard], name):
        part = _as_whole(values)
        if part is None:
            return np.empty(0, np.int64)
        parts.append(part)
        most -= len(part)
        if most <= 0:
            break
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _as_whole(values: pa.Array) -> np.ndarray | None:
    if values.null_count or not is_numeric(values.type):
        return None
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64(), safe=False).to_numpy()
    found = numbers(values)
    if not np.isfinite(found).all() or (np.abs(found) > EXACT).any() or (found != np.round(found)).any():
        return None
    return found.astype(np.int64)


def _all_differ(values: np.ndarray) -> bool:
    return len(values) > 0 and len(np.unique(values)) == len(values)
