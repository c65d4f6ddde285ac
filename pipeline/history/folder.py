"""The folder of a history. Its files are written once, whole, and never changed; a new fact is a new file.

`<folder>/<kind>/<place>-<checksum>.parquet`: the place in the order of writing, and the start of the file's SHA-256. A
file whose content does not fit its name is damaged, and reading it is an error: a lost verdict must not go unnoticed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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

    def read(self) -> Iterator[pa.Table]:
        """Read the files one after the other.

        Raises:
            InputError: a file is damaged, or a later version wrote it.
        """
        for path in self.paths():
            yield _read(path)

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

    def append(self, table: pa.Table) -> Path:
        """Write a new file; call it inside `locked`."""
        places = [int(path.name.partition("-")[0]) for path in self.paths()]
        sink = pa.BufferOutputStream()
        metadata = (table.schema.metadata or {}) | {VERSION: FORMAT}
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        name = f"{max(places, default=0) + 1:06d}-{_checksum(content)}.parquet"
        path = self.folder / self.kind / name
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
        return path


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:CHECKSUM_DIGITS]


def _read(path: Path) -> pa.Table:
    content = path.read_bytes()
    if _checksum(content) != path.stem.rpartition("-")[2]:
        raise InputError(
            f"{path}: is damaged (its checksum differs)",
            "Restore a copy of the file. Without one, remove it: what people said in it is then forgotten.",
        )
    table = pq.read_table(pa.BufferReader(content))
    found = (table.schema.metadata or {}).get(VERSION)
    if found != FORMAT:
        raise InputError(
            f"{path}: has the format {found!r}, and this version reads {FORMAT!r}",
            "A later version of Winnow wrote it: use that version.",
        )
    return table
