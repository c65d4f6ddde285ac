"""Reads the evidence that a config names as a stream, and writes it in the order of the rows of each role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES, AuditConfig, Data, Evidence, digest
from pipeline.data.catalog import read_catalog
from pipeline.data.encode import Encoding
from pipeline.data.evidence.lines import Lines, read_lines
from pipeline.data.evidence.values import BadRow, Reader, readers
from pipeline.data.files import (
    Run,
    Shard,
    SourceFile,
    check_unchanged,
    counted,
    find_files,
    matches,
    open_shards,
    read_runs,
)
from pipeline.data.formats.copies import state_of
from pipeline.data.hashing import key_ids
from pipeline.data.problems import place
from pipeline.errors import InputError
from pipeline.features.arrow import is_categorical, plain, value_type
from pipeline.runs.directory import write_atomically

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
"""Lines of the catalog, int64 `[some rows]`, and their values, float32 `[some rows, width]`."""


@dataclass(frozen=True)
class Found:
    """What was found for one kind of evidence: the width of its values, and rows of the file that no row needs."""

    width: int
    unused: int


def evidence_path(folder: Path, name: str, role: str) -> Path:
    """The file with the values of a role's rows, float32 `[rows, width]`."""
    return folder / f"{name}-{role}.npy"


def collect_evidence(
    config: AuditConfig, run_path: Path, encoding: Encoding, folder: Path | None = None
) -> dict[str, Found]:
    """Read and check all evidence, for every row in the catalog.

    Args:
        config: of the audit.
        run_path: the run directory; it has the catalog.
        encoding: fitted.
        folder: where the values are written, a file per kind and role (`evidence_path`); None writes nothing.

    Returns:
        By the key below `data`.

    Raises:
        InputError: a column, a key or a value is missing or wrong; the message names file, row and column.
    """
    data = config.data
    if not data.evidence:
        return {}
    check_task(data, encoding.task)
    shards = open_shards(find_files(data))
    joined = any(each.file is not None for each in data.evidence.values())
    lines, found = read_lines(run_path, shards, joined), {}
    for reader in readers(data, encoding.classes):
        given = data.evidence[reader.name]
        stream: _Own | _Joined = (
            _Own(shards, reader) if given.file is None else _Joined(run_path, data, given, shards, reader)
        )
        for shard in stream.shards:
            reader.check_types(shard.path, shard.schema)
        batches = stream.batches(lines, config.compute.chunk_rows)
        width = _write(batches, lines, None if folder is None else (folder, reader.name))
        check_unchanged(stream.shards)
        found[reader.name] = Found(width, stream.unused)
    return found


def check_task(data: Data, task: str) -> None:
    """Raises InputError for probabilities of classes where the labels are no classes."""
    if data.pred_probs is not None and task != "classification":
        raise InputError(
            f"data.pred_probs are probabilities of classes, and the labels are a {task} task",
            "Leave data.pred_probs out; data.embeddings works for every task.",
        )


def evidence_fingerprint(config: AuditConfig) -> str | None:
    """A hash of path, size and modification time of the joined files; None without such files.

    Raises:
        InputError: a file does not exist.
    """
    facts = [
        [name, path, *state_of(Path(path))]
        for name, given in config.data.evidence.items()
        if given.file is not None
        for path in _paths_of(name, given)
    ]
    return digest(facts) if facts else None


def _paths_of(name: str, given: Evidence) -> list[str]:
    return matches(given.file or "", f"{name}.file")


def _write(batches: Batches, lines: Lines, into: tuple[Path, str] | None) -> int:
    """Write the values of all rows, or only read them if `into` (folder and name) is None; returns their width."""
    width = 0
    with ExitStack() as stack:
        arrays: dict[int, np.memmap] = {}
        for which, values in batches:
            width = values.shape[1]
            if into is None:
                continue
            arrays = arrays or _create(stack, lines, into, width)
            for code, array in arrays.items():
                mine = lines.roles[which] == code
                array[lines.places[which[mine]]] = values[mine]
        for array in arrays.values():
            array.flush()
    return width


def _create(stack: ExitStack, lines: Lines, into: tuple[Path, str], width: int) -> dict[int, np.memmap]:
    """Role → its file, which appears when the stack is left without an error."""
    arrays: dict[int, np.memmap] = {}
    for role, rows in lines.counts().items():
        if rows:
            temporary = stack.enter_context(write_atomically(evidence_path(*into, role)))
            arrays[ROLES.index(role)] = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.float32, shape=(rows, width)
            )
    return arrays


class _Own:
    """Evidence in columns of the data themselves."""

    unused = 0

    def __init__(self, shards: Sequence[Shard], reader: Reader):
        self.shards, self._reader = shards, reader

    def batches(self, lines: Lines, chunk_rows: int) -> Batches:
        for shard in self.shards:
            for run in read_runs(shard, self._reader.columns, chunk_rows):
                which = lines.of_run(shard.index, run.first, run.batch.num_rows)
                if len(which):
                    batch = run.batch.take(pa.array(lines.rows[which] - run.first))
                    values = self._reader.read(batch)
                    if isinstance(values, BadRow):
                        _refuse(shard, int(lines.rows[which[values.place]]), values)
                    yield which, values


class _Joined:
    """Evidence in a file of its own, joined by the keys of the rows."""

    def __init__(self, run_path: Path, data: Data, given: Evidence, sources: Sequence[Shard], reader: Reader):
        self.unused = 0
        self._run_path = run_path
        self.shards = open_shards([SourceFile(path, None) for path in _paths_of(reader.name, given)])
        self._key = given.key or str(data.key)
        self._file, self._sources, self._reader = str(given.file), sources, reader
        for shard in self.shards:
            self._check_columns(shard)

    def batches(self, lines: Lines, chunk_rows: int) -> Batches:
        order = np.argsort(lines.keys, kind="stable")
        ordered, first = lines.keys[order], np.full(len(lines), -1, dtype=np.int64)
        before = 0
        for shard in self.shards:
            columns = list(dict.fromkeys([self._key, *self._reader.columns]))
            for run in read_runs(shard, columns, chunk_rows):
                ids = self._ids(run)
                at = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
                mine = np.flatnonzero(ordered[at] == ids)
                which = order[at[mine]]
                self.unused += len(ids) - len(mine)
                self._note(run, mine, which, first, before)
                if len(which):
                    values = self._reader.read(run.batch.take(pa.array(mine)))
                    if isinstance(values, BadRow):
                        _refuse(shard, run.first + int(mine[values.place]), values)
                    yield which, values
            before += shard.rows
        self._check_all_found(lines, first)

    def _check_columns(self, shard: Shard) -> None:
        for name in (self._key, *self._reader.columns):
            if shard.schema.names.count(name) != 1:
                times = "twice" if name in shard.schema.names else "not"
                raise InputError(
                    f"{shard.path}: column {name!r} is {times} there (it has {', '.join(shard.schema.names[:10])})",
                    f"data.{self._reader.name} names it: correct the name, or write the file again.",
                )
        kind = value_type(shard.schema.field(self._key).type)
        if not is_categorical(kind):
            raise InputError(
                f"{shard.path}: column {self._key!r} is {kind}, which can't be a key",
                "Keys are strings or integers, as in data.key.",
            )

    def _ids(self, run: Run) -> np.ndarray:
        """The ids of the keys of a run, int64 `[rows]`."""
        keys = plain(run.batch.column(self._key))
        if keys.null_count:
            row = int(np.argmax(pc.is_null(keys).to_numpy(zero_copy_only=False)))
            bad = BadRow(row, f"key {self._key!r} is null", "Fill it in, or take the row out of the file.")
            _refuse(run.shard, run.first + row, bad)
        return key_ids([str(key) for key in keys.to_pylist()])

    def _note(self, run: Run, mine: np.ndarray, which: np.ndarray, first: np.ndarray, before: int) -> None:
        """Note in `first` at which row of all files the evidence of a line stands; a second one is an error."""
        rows = before + run.first + mine
        again = first[which] >= 0
        again[np.setdiff1d(np.arange(len(which)), np.unique(which, return_index=True)[1])] = True
        if not again.any():
            first[which] = rows
            return
        at = int(np.argmax(again))
        earlier = int(first[which[at]]) if first[which[at]] >= 0 else int(rows[which == which[at]][0])
        key = run.batch.column(self._key)[int(mine[at])].as_py()
        raise InputError(
            f"{place(run.shard, int(rows[at]) - before)}: key {str(key)!r} is also that of "
            f"{place(*self._locate(earlier))}",
            f"A row has one line in {self._file}: take one of the two out.",
        )

    def _locate(self, row: int) -> tuple[Shard, int]:
        for shard in self.shards:
            if row < shard.rows:
                return shard, row
            row -= shard.rows
        raise IndexError(row)

    def _check_all_found(self, lines: Lines, first: np.ndarray) -> None:
        missing = np.flatnonzero(first < 0)
        if len(missing):
            line = int(missing[0])
            source = next(each for each in self._sources if each.index == lines.shards[line])
            key = read_catalog(self._run_path, columns=["row_key"])["row_key"][line].as_py()
            more = "" if len(missing) == 1 else f"\n  ({counted(len(missing) - 1, 'more row')} without)"
            raise InputError(
                f"{self._file}: no row has the key {key!r} in column {self._key!r}, "
                f"and {place(source, int(lines.rows[line]))} has it",
                f"Every row that is audited needs its own: add it, or leave data.{self._reader.name} out.{more}",
            )


def _refuse(shard: Shard, row: int, bad: BadRow) -> NoReturn:
    raise InputError(f"{place(shard, row)}: {bad.what}", bad.hint)
