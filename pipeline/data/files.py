"""Which files hold the data, and reading them as a stream of runs of rows."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import ROLES, AuditConfig, Data, digest
from pipeline.data.formats.copies import state_of
from pipeline.data.formats.folders import sources_in
from pipeline.data.formats.registry import MAGIC, format_of
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError
from pipeline.features.arrow import plain, unified, value_type
from pipeline.features.squares import length_of_pictures, may_hold_pictures

PEEKED = 256
"""Rows whose lists say whether they are pictures."""


@dataclass(frozen=True)
class SourceFile:
    """A file that the config names. `role` is None when `data.split` decides row by row."""

    path: str
    role: str | None


@dataclass(frozen=True)
class Shard:
    """A source whose footer could be read: a Parquet file, or a file or folder of another format with its copy."""

    index: int
    path: str
    role: str | None
    schema: pa.Schema
    row_groups: tuple[int, ...]  # rows of each
    size: int  # bytes
    mtime_ns: int  # of a folder a hash of its listing
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    """What columns are read as that other shards have in another type, or that hold pictures as lists of bytes."""

    def type_of(self, column: str) -> pa.DataType:
        """The type in which the column is read, without dictionary encoding."""
        return self.types.get(column) or value_type(self.schema.field(column).type)

    def read_as(self, name: str, column: pa.Array) -> pa.Array:
        """Values of a column in the type in which it is read. Raises InputError for values that don't fit."""
        kind = self.type_of(name)
        try:
            return plain(column).cast(kind)
        except pa.ArrowException as error:
            raise InputError(
                f"{self.path}: column {name!r} is {column.type} and can't be read as {kind}, which other files need "
                f"({_first_line(error)})",
                "Give the column one type in all files.",
            ) from None

    @property
    def rows(self) -> int:
        return sum(self.row_groups)

    @cached_property
    def group_starts(self) -> np.ndarray:
        """First row of each row group, int64 [row groups]."""
        return np.cumsum((0, *self.row_groups), dtype=np.int64)[:-1]

    def row_group_of(self, rows: np.ndarray) -> np.ndarray:
        """Row group of each row, int32; empty groups hold none."""
        return (np.searchsorted(self.group_starts, rows, side="right") - 1).astype(np.int32)


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one shard: `batch` starts at row `first`."""

    shard: Shard
    first: int
    batch: pa.RecordBatch


def find_files(data: Data) -> list[SourceFile]:
    """All files that the config names, role by role, each sorted by path within its pattern.

    Raises InputError when a pattern matches nothing or a file has two roles.
    """
    files: list[SourceFile] = []
    seen: dict[str, SourceFile] = {}
    for role in ROLES:
        for pattern in getattr(data, role) or ():
            for path in matches(pattern, role):
                file = SourceFile(path, None if data.split else role)
                other = seen.setdefault(os.path.realpath(path), file)
                if other is file:
                    files.append(file)
                elif other.role != file.role:
                    raise InputError(
                        f"{path}: given for both {other.role} and {file.role}",
                        "A row may have one role only: give separate files, or cut one set by data.split.",
                    )
    return files


def matches(pattern: str, role: str) -> list[str]:
    """The files of a path, a folder or a glob, sorted."""
    path = Path(pattern)
    if path.is_file():
        return [pattern]
    if path.is_dir():
        found = [str(source) for source in sources_in(path)]
    else:
        # glob.glob, as Path.glob takes no absolute patterns
        found = [name for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207
    if not found:
        kinds = "a folder without Parquet files, files of another known format or pictures"
        what = kinds if path.is_dir() else "no file matches"
        raise InputError(
            f"data.{role}: {pattern}: {what}",
            f"Give a file, a folder or a glob; relative paths start from {Path.cwd()}.",
        )
    return sorted(found)


def source_fingerprint(config: AuditConfig) -> str:
    """A hash of role, path, size and modification time of all files that the config names, also those in folders."""
    return digest([[file.role, file.path, *state_of(Path(file.path))] for file in find_files(config.data)])


def open_shards(files: Sequence[SourceFile]) -> list[Shard]:
    """Read all footers. Raises InputError that names the first unreadable file and counts the rest."""
    shards: list[Shard] = []
    errors: list[InputError] = []
    for index, file in enumerate(files):
        try:
            shards.append(open_shard(index, file))
        except InputError as error:
            errors.append(error)
    if errors:
        first, *others = errors
        rest = f"\n  ({counted(len(others), 'more file')} can't be read)" if others else ""
        raise InputError(first.message, f"{first.hint}{rest}")
    return _with_types(shards)


def _with_types(shards: list[Shard]) -> list[Shard]:
    """The shards with the types in which columns are read that they have in different types."""
    kinds: dict[str, list[pa.DataType]] = {}
    for shard in shards:
        for entry in shard.schema:
            kinds.setdefault(entry.name, []).append(value_type(entry.type))
    different = {name: unified(found) for name, found in kinds.items() if len(set(found)) > 1}
    types = {name: kind for name, kind in different.items() if kind is not None}
    for name, found in kinds.items():
        kind = types.get(name, found[0])
        length = _picture_length(shards, name) if may_hold_pictures(kind) else None
        if length is not None:
            types[name] = pa.list_(pa.uint8(), length)
    if not types:
        return shards
    return [
        replace(shard, types={n: k for n, k in types.items() if n in shard.schema.names}) for shard in shards
    ]


def _picture_length(shards: Sequence[Shard], name: str) -> int | None:
    """The length of the first lists of a column, if it is that of square pictures."""
    for shard in shards:
        if shard.rows and name in shard.schema.names:
            with open_source(shard.path) as parquet:
                return length_of_pictures(next(parquet.iter_batches(PEEKED, columns=[name])).column(0))
    return None


def counted(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def open_shard(index: int, file: SourceFile) -> Shard:
    """Read the footer; a file of another format is converted first.

    Raises InputError when the file is empty, cut short or of no known format, or can't be converted.
    """
    try:
        size, mtime_ns = state_of(Path(file.path))
        with open_source(file.path) as parquet:
            metadata = parquet.metadata
            sizes = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            schema = parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file.path, error) from None
    return Shard(index, file.path, file.role, schema, sizes, size, mtime_ns)


def _unreadable(path: str, error: Exception) -> InputError:
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file:
            head = file.read(4)
            file.seek(max(size - 4, 0))
            tail = file.read(4)
    except OSError as reason:
        return InputError(f"{path}: can't be read ({reason.strerror})", "Check the file and its rights.")
    if size == 0:
        return InputError(f"{path}: empty (0 bytes)", "Write it again, or take it out of the data.")
    if head != MAGIC:
        return InputError(f"{path}: not a Parquet file", "Convert it to Parquet, or narrow the path pattern.")
    if tail != MAGIC:
        return InputError(f"{path}: cut short, the Parquet footer is missing", "Copy the file again.")
    return InputError(f"{path}: the Parquet footer is damaged ({_first_line(error)})", "Copy the file again.")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_runs(shard: Shard, columns: Sequence[str], chunk_rows: int) -> Iterator[Run]:
    """The rows of a shard as runs of at most `chunk_rows`.

    Row groups that fit are kept whole and joined while they fit together; larger ones are cut evenly.
    Where runs begin depends on the row groups and `chunk_rows` alone.

    Raises InputError that names file and row group when a page is damaged.
    """
    with open_source(shard.path, page_checksum_verification=True) as parquet:
        first = 0
        for groups in packs(shard.row_groups, chunk_rows):
            parts = (_group_batches(parquet, shard, group, columns, chunk_rows) for group in groups)
            for batch in next(parts) if len(groups) == 1 else _joined(chain.from_iterable(parts)):
                yield Run(shard, first, batch)
                first += batch.num_rows


def rows_within(shard: Shard, columns: Sequence[str], most_bytes: int) -> int:
    """How many rows of some columns take no more than `most_bytes` in memory, by the row group that takes most; ≥ 1."""
    most = 1.0
    with open_source(shard.path) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            part = parquet.metadata.row_group(group)
            leaves = (part.column(at) for at in range(part.num_columns))
            size = sum(
                leaf.total_uncompressed_size
                for leaf in leaves
                if leaf.path_in_schema.split(".")[0] in columns
            )
            most = max(most, size / max(part.num_rows, 1))
    return max(1, int(most_bytes // most))


def packs(sizes: Sequence[int], chunk_rows: int) -> Iterator[list[int]]:
    """Consecutive row groups, joined greedily up to `chunk_rows` rows; a larger group stands alone."""
    pack: list[int] = []
    rows = 0
    for group, size in enumerate(sizes):
        if pack and rows + size > chunk_rows:
            yield pack
            pack, rows = [], 0
        pack.append(group)
        rows += size
    if pack:
        yield pack


def _group_batches(
    parquet: pq.ParquetFile, shard: Shard, group: int, columns: Sequence[str], chunk_rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of one row group, validated: damaged text, for one, shows only here."""
    rows = max(shard.row_groups[group], 1)
    even = -(-rows // -(-rows // chunk_rows))
    try:
        for batch in parquet.iter_batches(even, row_groups=[group], columns=list(columns)):
            batch.validate(full=True)
            yield _as_read(shard, batch)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{shard.path}, row group {group}: a page is damaged ({_first_line(error)})",
            "Copy or write the file again, or take it out of the data.",
        ) from None


def _as_read(shard: Shard, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the types that its shard is read in; dictionaries that all shards have stay."""
    for place, entry in enumerate(batch.schema):
        is_view = pa.types.is_string_view(entry.type) or pa.types.is_binary_view(entry.type)
        if entry.name in shard.types or is_view:
            column = shard.read_as(entry.name, batch.column(place))
            batch = batch.set_column(place, entry.with_type(column.type), column)
    return batch


def _joined(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """All batches as one; an empty list when there are no rows."""
    parts = list(batches)
    return pa.Table.from_batches(parts).combine_chunks().to_batches() if parts else []


def sha256_of(path: str) -> str:
    """Of the content of a file; of a folder, of the names and contents of all files in it and of tables beside it."""
    if Path(path).is_dir():
        kind, files = format_of(Path(path)), [file for file in Path(path).rglob("*") if file.is_file()]
        files += kind.beside(Path(path)) if kind else []
        return digest(sorted([os.path.relpath(file, path), sha256_of(str(file))] for file in files))
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(shards: Sequence[Shard]) -> None:
    """Raises InputError when a file was written to since its footer was read."""
    for shard in shards:
        if state_of(Path(shard.path)) != (shard.size, shard.mtime_ns):
            raise InputError(
                f"{shard.path}: changed while it was being read",
                "Run the same command again when nothing writes to it.",
            )
