"""The journal of a run directory: a line for every file before it becomes visible, and for every step that is done.

Every process appends to a file of its own.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts.marks import kept_marks, measured, state_of
from pipeline.attribution.atomic import AFTER, BEFORE, PARTIAL, watchers

JOURNAL = ".written"


def root_of(path: Path) -> Path | None:
    """The nearest folder above that has a journal, as a run directory has.

    None outside of runs, and in a folder that is being written: its files are named when it is there.
    """
    for folder in path.absolute().parents:
        if (folder / JOURNAL).is_dir():
            return folder
        if folder.suffix == PARTIAL:
            return None
    return None


def begin_journal(root: Path) -> None:
    """From now on, what is written below `root` is named."""
    (root / JOURNAL).mkdir(parents=True, exist_ok=True)


_process = 0, ""


def append(root: Path, line: dict[str, Any]) -> None:
    """Add a line to this process's journal of a run."""
    global _process
    if _process[0] != os.getpid():
        _process = os.getpid(), f"{os.getpid()}-{secrets.token_hex(4)}"
    with (root / JOURNAL / _process[1]).open("ab", buffering=0) as file:
        # The first line break ends a line that an earlier error cut off.
        file.write(b"\n" + json.dumps(line).encode() + b"\n")


def _name_write(moment: str, path: Path, temporary: Path) -> None:
    """A watcher of writes: names the content of each before it becomes visible."""
    root = root_of(path)
    if root is None:
        return
    path = path.absolute()
    if moment == BEFORE:
        mark = measured(temporary)
        append(root, {"file": str(path.relative_to(root)), "mark": mark})
        kept_marks[path] = (), mark  # its state is known when it is there
    elif moment == AFTER:
        kept_marks[path] = state_of(path), kept_marks[path][1]


watchers.append(_name_write)


def lines_of(journal: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; what was cut off or damaged names nothing."""
    for text in journal.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        match line:
            case {"file": str(), "mark": [int(), str()]} | {"step": str(), "files": [*_]}:
                yield line
            case {}:
                yield {}
