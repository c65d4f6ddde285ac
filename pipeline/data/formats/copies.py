"""The Parquet copies of sources that are of another format, in a cache that all audits share."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.attribution.atomic import write_atomically
from pipeline.config import digest
from pipeline.data.formats.format import Content
from pipeline.data.formats.registry import format_of
from pipeline.errors import WinnowError

VERSION = 1
"""A higher number makes all copies anew: raise it when a format is read in another way."""
NOTES = b"winnow_notes"
"""The key of the schema's metadata under which a copy keeps the notes of its conversion."""
_converting = threading.Lock()


def folder() -> Path:
    """`WINNOW_CACHE`, else `winnow` in `XDG_CACHE_HOME`, else `~/.cache/winnow`."""
    own = os.environ.get("WINNOW_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "winnow"


def state_of(path: Path) -> tuple[int, int]:
    """Numbers that change when a source does.

    Returns:
        For a file its size in bytes and the time of its last change in ns. For a folder the bytes of all of its files,
        and a hash of their names, sizes and times.
    """
    if not path.is_dir():
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    listing: list[tuple[str, int, int]] = []
    for place, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            found = (Path(place) / name).stat()
            listing.append((os.path.relpath(Path(place) / name, path), found.st_size, found.st_mtime_ns))
    return sum(size for _, size, _ in listing), int(digest(listing)[:15], 16)


def parquet_of(path: str | Path) -> Path:
    """The Parquet file with the rows of a source: itself, or a copy that is made where it is missing.

    A copy is named after the state of its source, so that a changed source gets a new one; the old one is removed. Two
    processes that make the same copy at once both write a whole one.

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
    with _converting:
        if not copy.exists():
            content = kind.read(path)
            try:
                _write(content, copy)
            except OSError as error:
                raise _no_room(copy, error) from None
            for old in folder().glob(f"*-{of_source}-*.parquet"):
                if old != copy:
                    old.unlink(missing_ok=True)
    return copy


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
