"""The folder of a history. Its files are written once, whole, and never changed; a new fact is a new file.

`<folder>/<kind>/<place>-<checksum>.parquet`: the place in the order of writing, and the start of the file's SHA-256. A
file whose content does not fit its name is damaged, and reading it is an error: a lost verdict must not go unnoticed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.files import sha256_of
from pipeline.errors import InputError
from pipeline.runs.directory import write_atomically

VERSION = b"winnow_history"
FORMAT = b"1"
CHECKSUM_DIGITS = 16


def history_folder(run_path: Path, name: str) -> Path:
    """The history of the dataset `name`: `history` beside its runs, or `NAME-history` beside runs of other datasets.

    `runs/NAME/RUN` has `runs/NAME/history`; a run directory elsewhere (`--output`) has `NAME-history` beside it.
    """
    beside = run_path.absolute().parent
    return beside / ("history" if beside.name == name else f"{name}-history")


@dataclass(frozen=True)
class HistoryFiles:
    """The files of one kind.

    Attributes:
        folder: of the history.
        kind: the name of the folder inside it.
    """

    folder: Path
    kind: str

    def paths(self) -> list[Path]:
        """The files in the order in which they were written."""
        return sorted((self.folder / self.kind).glob("[0-9]*.parquet"))

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read the files one after the other; all columns or those named.

        Raises:
            InputError: a file is damaged, or a later version wrote it.
        """
        for path in self.paths():
            yield _read(path, columns)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process append meanwhile; the operating system unlocks when a process ends.

        Raises:
            InputError: the folder can't be written to.
        """
        try:
            (self.folder / self.kind).mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("a")
        except OSError as error:
            raise InputError(
                f"{self.folder}: can't be written to ({os.strerror(error.errno or 0)})",
                "The history of a dataset is kept beside its runs: make that folder writable.",
            ) from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def append(self, tables: Iterable[pa.Table], schema: pa.Schema) -> Path:
        """Write a new file of several tables; call it inside `locked`."""
        places = [int(path.name.partition("-")[0]) for path in self.paths()]
        metadata = (schema.metadata or {}) | {VERSION: FORMAT}
        folder = self.folder / self.kind
        unnamed = folder / "unnamed.parquet"  # its name has the checksum of what is being written
        with (
            write_atomically(unnamed) as temporary,
            pq.ParquetWriter(temporary, schema.with_metadata(metadata), compression="zstd") as writer,
        ):
            for table in tables:
                writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
        path = folder / f"{max(places, default=0) + 1:06d}-{_checksum(unnamed)}.parquet"
        unnamed.rename(path)
        return path


def _checksum(path: Path) -> str:
    return sha256_of(str(path))[:CHECKSUM_DIGITS]


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    if _checksum(path) != path.stem.rpartition("-")[2]:
        raise InputError(
            f"{path}: is damaged (its checksum differs)",
            "Restore a copy of the file. Without one, remove it: what it said is then forgotten.",
        )
    table = pq.read_table(path, columns=None if columns is None else list(columns), partitioning=None)
    found = (table.schema.metadata or {}).get(VERSION)
    if found != FORMAT:
        raise InputError(
            f"{path}: has the format {found!r}, and this version reads {FORMAT!r}",
            "A later version of Winnow wrote it: use that version.",
        )
    return table
