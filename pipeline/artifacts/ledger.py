"""What the journal and the manifests of a run say of its files, and whether the files are so."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import inside
from pipeline.artifacts.journal import JOURNAL, lines_of
from pipeline.artifacts.manifest import STAGES, Manifest
from pipeline.artifacts.marks import Mark, mark_of
from pipeline.attribution.atomic import sync


class Ledger:
    """What is named below a folder, read from its journal and the manifests of its stages."""

    def __init__(self, root: Path):
        self.root = root.absolute()
        self.written: dict[str, list[Mark]] = {}
        self.steps: dict[str, list[list[str]]] = {}
        self.open: set[str] = set()
        """Files of the last line of a journal: its process may have ended before they were there."""
        for journal in sorted((self.root / JOURNAL).glob("*")):
            line = None
            for line in lines_of(journal):
                self._take(line)
            if line is not None and "file" in line:
                self.open.add(line["file"])
        self.manifests = {
            path.stem: Manifest.read(path)
            for path in sorted((self.root / STAGES).glob("*.json"))
            if self.state(path) in ("whole", "unnamed")
        }

    def _take(self, line: dict[str, Any]) -> None:
        if "file" in line:
            marks = self.written.setdefault(line["file"], [])
            mark = Mark(*line["mark"])
            if mark in marks:
                marks.remove(mark)
            marks.append(mark)  # the latest of this process comes last
        elif "step" in line:
            self.steps.setdefault(line["step"], []).append(line["files"])

    def broken_manifest(self, stage: str) -> str | None:
        """What is wrong with a stage's manifest, in words; None for one that is whole or not there."""
        path = self.root / STAGES / f"{stage}.json"
        if stage in self.manifests or not (path.exists() or self.was_there(self.name_of(path))):
            return None
        return self.state(path)

    def marks(self, name: str) -> list[Mark]:
        """All contents that the file may have: a write is named before the file is replaced."""
        manifests = getattr(self, "manifests", {}).values()
        found = [each.files[name] for each in manifests if each.files and name in each.files]
        return self.written.get(name, []) + found

    def state(self, path: Path) -> str:
        """`whole`, `unnamed`, or what is wrong with the file, in words."""
        return judged(path, self.marks(self.name_of(path)))

    def was_there(self, name: str) -> bool:
        """False for what was never written, and for what the last line of a journal named for the first time."""
        return len(self.marks(name)) > (name in self.open)

    def name_of(self, path: Path) -> str:
        return str(path.absolute().relative_to(self.root))

    def compact(self, forgotten: Sequence[str]) -> None:
        """Write the journal anew as one file, without `forgotten` places and what is no longer there."""
        journals = list((self.root / JOURNAL).glob("*"))
        lines: list[dict[str, Any]] = [
            {"file": name, "mark": mark}
            for name, marks in self.written.items()
            if not inside(name, forgotten) and os.path.lexists(self.root / name)
            for mark in current(self.root / name, marks)
        ]
        lines += [
            {"step": step, "files": files}
            for step, found in self.steps.items()
            if not inside(step, forgotten)
            for files in found[-1:]
        ]
        target = self.root / JOURNAL / f"0-{secrets.token_hex(4)}"
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {}])
        target.write_text(text, encoding="utf-8")
        sync(target)
        for journal in journals:
            journal.unlink(missing_ok=True)


def current(path: Path, marks: list[Mark]) -> list[Mark]:
    """Those of the content that is there; all where it is none of them, so that it is found damaged."""
    if len(marks) < 2:
        return marks
    there = mark_of(path)
    return [there] if there in marks else marks


def judged(path: Path, marks: Sequence[Mark]) -> str:
    """`whole` where the file has one of the contents, `unnamed` where there are none; else what is wrong with it."""
    if not os.path.lexists(path):
        return "is missing"
    if not marks:
        return "unnamed"
    try:
        found = mark_of(path.absolute())
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if found in marks:
        return "whole"
    if not found.size:
        return "is empty"
    if found.size < marks[-1].size:
        return f"is cut off after {found.size:,} of {marks[-1].size:,} bytes"
    return "does not have the content that was written (its checksum differs)"
