"""The Parquet copies of sources that are of another format, in a cache that all audits share."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.attribution.atomic import write_atomically
from pipeline.cache import folder
from pipeline.config import digest
from pipeline.data.formats.format import Content, Format
from pipeline.data.formats.registry import format_of
from pipeline.errors import WinnowError

VERSION = 1
"""A higher number makes all copies anew: raise it when a format is read in another way."""
NOTES = b"winnow_notes"
"""The key of the schema's metadata under which a copy keeps the notes of its conversion."""
_converting = threading.Lock()


def state_of(path: Path) -> tuple[int, int]:
    """Numbers that change when a source does.

    Returns:
        For a file its size in bytes and the time of its last change in ns. For a folder the bytes of all of its files,
        and a hash of their names, sizes and times. Files beside a source that say something of its rows count as well.
    """
    size, mark = _of_folder(path) if path.is_dir() else _of_file(path)
    kind = format_of(path)
    beside = kind.beside(path) if kind else []
    return (size, _number([mark, *map(_of_file, beside)])) if beside else (size, mark)


def _of_file(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _of_folder(path: Path) -> tuple[int, int]:
    listing: list[tuple[str, int, int]] = []
    for place, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(place) / name
            listing.append((os.path.relpath(file, path), *_of_file(file)))
    return sum(size for _, size, _ in listing), _number(listing)


def _number(value: object) -> int:
    return int(digest(value)[:15], 16)


def parquet_of(path: str | Path) -> Path:
    """The Parquet file with the rows of a source: itself, or a copy that is made where it is missing.

    A copy is named after the state of its source, so that a changed source gets a new one; the old one is removed. Of
    several processes that need a copy one makes it, and the others wait.

    Raises:
        InputError: the source can't be converted; the message names file and line.
        OSError: the source can't be read.
    """
    path = Path(path)
    kind = format_of(path)
    if kind is None:
        return path
    of_source = digest(os.path.realpath(path))[:16]
    copy = folder() / f"{path.name}-{of_source}-{digest([VERSION, *state_of(path)])[:16]}.parquet"
    if not copy.exists():
        with _alone(folder() / f".{of_source}.lock"):
            if not copy.exists():
                _convert(kind, path, copy)
                for old in folder().glob(f"*-{of_source}-*"):  # also what a killed process has left
                    if old != copy:
                        old.unlink(missing_ok=True)
    return copy


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other thread or process is in here with the same lock."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("w")
    except OSError as error:
        raise _no_room(lock, error) from None
    with _converting, opened as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(kind: Format, path: Path, copy: Path) -> None:
    """Raises WinnowError where there is no room for the copy."""
    content = kind.read(path)
    try:
        _write(content, copy)
    except OSError as error:
        raise _no_room(copy, error) from None


def _write(content: Content, copy: Path) -> None:
    """A row group for each batch, with checksums; the notes are known when all batches have been read."""
    how = {"compression": "zstd", "write_page_checksum": True, "use_compliant_nested_type": False}
    with write_atomically(copy) as temporary, pq.ParquetWriter(temporary, content.schema, **how) as writer:
        for batch in content.batches:
            if batch.num_rows:
                writer.write_table(pa.Table.from_batches([batch]), row_group_size=batch.num_rows)
        writer.add_key_value_metadata({NOTES.decode(): json.dumps(content.notes)})


def _no_room(copy: Path, error: OSError) -> WinnowError:
    return WinnowError(
        f"{copy.parent}: a copy of the data can't be written there ({error.strerror or error})",
        "Free some space, or set WINNOW_CACHE to a folder on another disk.",
    )


def notes_of(path: str | Path) -> list[str]:
    """What was found while a source was converted; nothing for Parquet."""
    if format_of(Path(path)) is None:
        return []
    metadata = pq.read_metadata(parquet_of(path)).metadata or {}
    return list(json.loads(metadata.get(NOTES, b"[]")))
