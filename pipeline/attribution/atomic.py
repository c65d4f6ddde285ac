"""Atomic writes: a file or folder is written beside its place, and then replaces what is there as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".part"
"""The end of the names of files and folders that are being written."""
BEFORE, AFTER = "before", "after"

Watcher = Callable[[str, Path, Path], None]
"""A function that is called with ``BEFORE`` or ``AFTER``, the path that is written, and the temporary path."""

watchers: list[Watcher] = []
"""The functions that are called, in this order, before and after each write becomes visible.

An error that one of them raises before the write prevents the write.
"""


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``. If the block ends without an error, its file replaces ``path``.

    The file is synced to disk before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield temporary
        sync(temporary)
        for watcher in watchers:
            watcher(BEFORE, path, temporary)
        temporary.replace(path)
        sync(path.parent)
        for watcher in watchers:
            watcher(AFTER, path, temporary)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder beside ``path``. If the block ends without an error, the folder replaces ``path``.

    The files are synced to disk before. A kill at any moment leaves the old folder, the new one or none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        files = {
            path / file.relative_to(temporary): file
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        for file, written in files.items():
            sync(written)
            for watcher in watchers:
                watcher(BEFORE, file, written)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        sync(path.parent)
        for file, written in files.items():
            for watcher in watchers:
                watcher(AFTER, file, written)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
