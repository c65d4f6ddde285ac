"""What only the whole dataset shows: empty roles, keys that occur twice, equal contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import ROLES, Data
from pipeline.data.files import Shard, counted
from pipeline.data.formats.sources import open_source
from pipeline.data.hashing import with_several
from pipeline.data.problems import place
from pipeline.data.splits import NONE, asked_roles
from pipeline.data.survey import ShardRows
from pipeline.errors import InputError


def check_roles(data: Data, counts: dict[str, int]) -> None:
    """Raises InputError when a role that was asked for has no rows."""
    given = (True, data.validation is not None, data.holdout is not None)
    for role in asked_roles(data.split, given):
        if counts[role] == 0:
            shown = ", ".join(f"{counts[each]:,} {each}" for each in ROLES)
            raise InputError(
                f"no {role} rows ({shown})",
                "Give more rows, or change data.split." if data.split else "Check the paths.",
            )


def check_keys(data: Data, shards: Sequence[ShardRows]) -> None:
    """Raises InputError that names a row key which occurs twice, within a role or in two."""
    if data.key is None:
        return  # path and row are unique, and files are told apart
    roles = np.concatenate([shard.roles for shard in shards])
    rows = np.flatnonzero(roles != NONE)
    ids = np.concatenate([shard.ids for shard in shards])[rows]
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
    pairs = sorted((int(rows[order[i]]), int(rows[order[i - 1]])) for i in twice)
    for later, earlier in pairs:
        (one, row), (other, other_row) = _locate(shards, later), _locate(shards, earlier)
        key = _read_value(one.shard, data.key, row)
        if key == _read_value(other.shard, data.key, other_row):  # equal hashes alone are no proof
            role, other_role = ROLES[one.roles[row]], ROLES[other.roles[other_row]]
            both = f"both {role}" if role == other_role else f"{role} and {other_role}"
            raise InputError(
                f"{place(one.shard, row)}: key {str(key)!r} is also that of "
                f"{place(other.shard, other_row)} ({both})",
                "Keys have to be unique over all files and a row may have one role only: remove the copies, "
                f"or leave data.key out.\n  ({counted(len(pairs) - 1, 'more repeated key')})",
            )


def _locate(shards: Sequence[ShardRows], index: int) -> tuple[ShardRows, int]:
    """The shard of a place among all rows, and the place in it."""
    for shard in shards:
        if index < shard.shard.rows:
            return shard, index
        index -= shard.shard.rows
    raise IndexError(index)


def _read_value(shard: Shard, column: str, row: int) -> Any:
    """One value of a column."""
    group = int(shard.row_group_of(np.array([row]))[0])
    with open_source(shard.path) as parquet:
        values: pa.ChunkedArray = parquet.read_row_group(group, columns=[column]).column(0)
    return values[row - int(shard.group_starts[group])].as_py()


def duplicates(shards: Sequence[ShardRows]) -> dict[str, int]:
    """Of train: groups of equal content, rows in them, and rows of equal features with several labels."""
    train = ROLES.index("train")
    contents = np.concatenate([shard.contents[shard.roles == train] for shard in shards])
    features = np.concatenate([shard.features[shard.roles == train] for shard in shards])
    conflicting = with_several(features, contents)
    del features
    contents.sort()
    again = np.zeros(len(contents) + 1, dtype=bool)  # whether a row's content is that of the row before
    again[1:-1] = contents[1:] == contents[:-1]
    return {
        "groups": int((again[1:] & ~again[:-1]).sum()),
        "rows": int((again[1:] | again[:-1]).sum()),
        "conflicting_rows": int(conflicting.sum()),
    }


def content_in_two_roles(shards: Sequence[ShardRows]) -> int:
    """Distinct contents (features and label) that occur in more than one role."""
    contents = np.concatenate([shard.contents[shard.roles != NONE] for shard in shards])
    roles = np.concatenate([shard.roles[shard.roles != NONE] for shard in shards])
    return len(np.unique(contents[with_several(contents, roles)]))
