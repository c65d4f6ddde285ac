"""The rows that audits of a dataset have seen: which are new, changed or gone since the audit before.

Every finished audit adds a file of events: the rows that appeared and those that vanished. A row whose content changed
has both. Rows are told apart by their content (features and label) and by their key. A dataset without a key column has
keys of the form shard#row, which change when shards are rewritten; its rows are told apart by their content alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.catalog import read_catalog
from pipeline.data.hashing import ids_of_hex, key_ids
from pipeline.history.folder import HistoryFiles

KIND = "rows"
APPEARED, VANISHED = "appeared", "vanished"
SCHEMA = pa.schema(
    [
        ("row_key", pa.string()),
        ("content_hash", pa.string()),
        ("shard", pa.string()),
        ("split", pa.string()),
        ("event", pa.string()),
    ]
)
RUN = b"run_id"
"""In a file's metadata: the run whose events it has."""
MIX = np.int64(0x1E3779B97F4A7C15)
"""An odd number, so that multiplying by it maps ids to ids one to one."""
PLACES = ["row_key", "content_hash", "shard", "split"]
PART = 100_000
"""Rows of a file that are made at a time."""


@dataclass(frozen=True)
class SeenRows:
    """Rows by the ids of their content and key, int64 `[rows]` each; without a key column both are the content's."""

    contents: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def pairs(self) -> np.ndarray:
        """One id for content and key, int64 `[rows]`."""
        return self.contents * MIX ^ self.keys

    def where(self, chosen: np.ndarray) -> SeenRows:
        return SeenRows(self.contents[chosen], self.keys[chosen])


@dataclass(frozen=True)
class RowChanges:
    """What differs from the audit before.

    Attributes:
        since: the run id of that audit.
        new: bool `[rows of the catalog]`, rows that it did not have.
        changed: bool `[rows of the catalog]`, rows whose key it had with another content.
        vanished: how many of its rows are gone.
    """

    since: str
    new: np.ndarray
    changed: np.ndarray
    vanished: int


def changes_since(folder: Path, run_path: Path, keyed: bool) -> RowChanges | None:
    """Compare the rows of a run with those of the audit before it.

    Args:
        folder: of the history.
        run_path: the run directory.
        keyed: whether the dataset has a key column.

    Returns:
        The changes; None for the first audit of a dataset.

    Raises:
        InputError: the history is damaged.
    """
    before, since = _seen_before(folder, run_path.name, keyed)
    if since is None:
        return None
    now = _rows_of_run(run_path, keyed)
    unseen = ~np.isin(now.contents, before.contents)
    changed = unseen & np.isin(now.keys, before.keys) if keyed else np.zeros(len(now), dtype=bool)
    gone = ~np.isin(before.contents, now.contents)
    if keyed:
        gone &= ~np.isin(before.keys, now.keys)
    return RowChanges(since, unseen & ~changed, changed, int(gone.sum()))


def record_rows(folder: Path, run_path: Path, keyed: bool) -> None:
    """Add the rows that appeared and vanished in a finished run to the history, unless the run is in it already.

    Args:
        folder: of the history; it is made if it does not exist.
        run_path: the run directory.
        keyed: whether the dataset has a key column.

    Raises:
        InputError: the history is damaged or can't be written to.
    """
    files = HistoryFiles(folder, KIND)
    with files.locked():
        if any(_run_of(table) == run_path.name for table in files.read([])):
            return
        before, _ = _seen_before(folder, run_path.name, keyed)
        now = _rows_of_run(run_path, keyed)
        appeared = ~np.isin(now.pairs, before.pairs)
        vanished = before.where(~np.isin(before.pairs, now.pairs))
        schema = SCHEMA.with_metadata({RUN: run_path.name.encode()})
        files.append(_events(files, run_path, appeared, vanished, keyed), schema)


def _seen_before(folder: Path, run_id: str, keyed: bool) -> tuple[SeenRows, str | None]:
    """The rows that were there before a run was recorded, and the run that recorded last."""
    found, since = SeenRows(np.empty(0, np.int64), np.empty(0, np.int64)), None
    for table in HistoryFiles(folder, KIND).read(["row_key", "content_hash", "event"]):
        if _run_of(table) == run_id:
            break
        since = _run_of(table)
        appeared = _seen(table.filter(pc.equal(table["event"], APPEARED)), keyed)
        vanished = _seen(table.filter(pc.equal(table["event"], VANISHED)), keyed)
        found = found.where(~np.isin(found.pairs, vanished.pairs))
        found = SeenRows(
            np.concatenate([found.contents, appeared.contents]), np.concatenate([found.keys, appeared.keys])
        )
    return found, since


def _run_of(table: pa.Table) -> str:
    return (table.schema.metadata or {})[RUN].decode()


def _rows_of_run(run_path: Path, keyed: bool) -> SeenRows:
    return _seen(read_catalog(run_path, columns=["row_key", "content_hash"]), keyed)


def _seen(table: pa.Table, keyed: bool) -> SeenRows:
    contents = ids_of_hex(table["content_hash"].combine_chunks())
    return SeenRows(contents, key_ids(table["row_key"].to_pylist()) if keyed else contents)


def _events(
    files: HistoryFiles, run_path: Path, appeared: np.ndarray, vanished: SeenRows, keyed: bool
) -> Iterator[pa.Table]:
    """The events of a run, in tables of at most PART rows."""
    catalog = read_catalog(run_path, columns=PLACES)
    yield from _parts(catalog.filter(pa.array(appeared)), APPEARED)
    left = vanished.pairs
    for table in files.read(SCHEMA.names) if len(left) else ():
        gone = table.filter(pc.equal(table["event"], APPEARED))
        gone = gone.filter(pa.array(np.isin(_seen(gone, keyed).pairs, left)))
        yield from _parts(gone, VANISHED)
        left = np.setdiff1d(left, _seen(gone, keyed).pairs)


def _parts(table: pa.Table, event: str) -> Iterator[pa.Table]:
    for begin in range(0, table.num_rows, PART):
        part = table.slice(begin, PART)
        yield pa.table([*(part[name] for name in PLACES), pa.array([event] * part.num_rows)], schema=SCHEMA)
