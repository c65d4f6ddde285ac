"""The rows of a run in the order of the catalog, and where a row of the source or a key stands among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES
from pipeline.data.catalog import NAME
from pipeline.data.files import Shard
from pipeline.data.hashing import key_ids

BATCH_ROWS = 65536


@dataclass(frozen=True)
class Lines:
    """All rows that take part; arrays are `[lines]`.

    Attributes:
        roles: int8, places in ROLES.
        places: int64, among the rows of the role.
        shards: int32, index of the shard.
        rows: int64, in the shard; ascending within a shard.
        keys: int64, ids of the keys; empty unless they were asked for.
    """

    roles: np.ndarray
    places: np.ndarray
    shards: np.ndarray
    rows: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.roles)

    def counts(self) -> dict[str, int]:
        """Rows of each role."""
        return {role: int((self.roles == code).sum()) for code, role in enumerate(ROLES)}

    def of_run(self, shard: int, first: int, rows: int) -> np.ndarray:
        """The lines of rows first … first + rows − 1 of a shard, int64."""
        begin, end = np.searchsorted(self.shards, [shard, shard + 1])
        inside = np.searchsorted(self.rows[begin:end], [first, first + rows])
        return np.arange(begin + inside[0], begin + inside[1])


def read_lines(run_path: Path, shards: Sequence[Shard], with_keys: bool) -> Lines:
    """The lines of the catalog; `with_keys` also hashes the keys."""
    index = {shard.path: shard.index for shard in shards}
    roles, of_shard, rows, keys = [], [], [], []
    with pq.ParquetFile(run_path / NAME) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["row_key", "shard", "row", "split"]):
            split = batch["split"].dictionary_encode()
            codes = np.array([ROLES.index(role) for role in split.dictionary.to_pylist()], dtype=np.int8)
            roles.append(codes[split.indices.to_numpy()])
            paths = pc.dictionary_encode(batch["shard"])
            known = np.array([index[path] for path in paths.dictionary.to_pylist()], dtype=np.int32)
            of_shard.append(known[paths.indices.to_numpy()])
            rows.append(batch["row"].to_numpy())
            if with_keys:
                keys.append(key_ids(batch["row_key"].to_pylist()))
    found = np.concatenate(roles)
    places = np.empty(len(found), dtype=np.int64)
    for code in range(len(ROLES)):
        mine = np.flatnonzero(found == code)
        places[mine] = np.arange(len(mine))
    none = np.zeros(0, dtype=np.int64)
    return Lines(
        found, places, np.concatenate(of_shard), np.concatenate(rows), np.concatenate(keys) if keys else none
    )
