"""By what the content of a file is known: its size and checksum."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import xxhash

BLOCK = 2**20
"""Bytes of a file that are read at a time."""


class Mark(NamedTuple):
    """By what a file's content is known: its bytes, and their XXH3 checksum or, of a link, where it leads."""

    size: int
    checksum: str


kept_marks: dict[Path, tuple[tuple[int, ...], Mark]] = {}
"""What this process measured, by path, with the file's state then: a file is read once, not by every stage."""


def mark_of(path: Path) -> Mark:
    """Raises OSError when the file is not there or can't be read."""
    if path.is_symlink():
        return Mark(0, f"link to {path.readlink()}")
    state = state_of(path)
    known = kept_marks.get(path)
    if known is not None and known[0] == state:
        return known[1]
    mark = measured(path)
    kept_marks[path] = state, mark
    return mark


def measured(path: Path) -> Mark:
    found, size = xxhash.xxh3_128(), 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            found.update(block)
            size += len(block)
    return Mark(size, found.hexdigest())


def state_of(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
