"""Which files hold the data, and reading them as a stream of runs of rows."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import ROLES, AuditConfig, Data, digest
from pipeline.data.formats.copies import state_of
from pipeline.data.formats.folders import sources_in
from pipeline.data.formats.registry import MAGIC
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError


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
    return shards


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
            yield batch
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{shard.path}, row group {group}: a page is damaged ({_first_line(error)})",
            "Copy or write the file again, or take it out of the data.",
        ) from None


def _joined(batches: Iterator[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """All batches as one; an empty list when there are no rows."""
    parts = list(batches)
    return pa.Table.from_batches(parts).combine_chunks().to_batches() if parts else []


def sha256_of(path: str) -> str:
    """Of the content of a file; of a folder, of the names and contents of all files in it."""
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        return digest([[str(file.relative_to(path)), sha256_of(str(file))] for file in files])
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
