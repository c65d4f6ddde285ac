"""Which files of a run are whole: every write is named with its checksum, and a resume trusts only what is named.

A run directory has a journal, the folder `.written/`. Before a file becomes visible, the process that writes it appends
a line with the file's path, size and checksum; when a step of several files is done, a line names them all. When a
stage ends, its lines become its manifest, `stages/<stage>.json`, which is written last.

Every process appends to a journal file of its own: thousands of chunks are thousands of lines, no list is rewritten for
each of them, and workers on several machines need no lock. Lines are not synced to disk one by one: a line that a power
failure takes away costs the file that it named, which is then made anew.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from pipeline.attribution.atomic import AFTER, BEFORE, PARTIAL, sync, watchers, write_atomically

JOURNAL = ".written"
STAGES = "stages"
BLOCK = 2**20
"""Bytes of a file that are read at a time."""

say = logging.getLogger("winnow").warning
"""Tells the person what was found damaged, and what happens now."""


class Mark(NamedTuple):
    """By what a file's content is known: its bytes, and their XXH3 checksum or, of a link, where it leads."""

    size: int
    checksum: str


_marks: dict[Path, tuple[tuple[int, ...], Mark]] = {}
"""What this process measured, by path, with the file's state then: a file is read once, not by every stage."""


def mark_of(path: Path) -> Mark:
    """Raises OSError when the file is not there or can't be read."""
    if path.is_symlink():
        return Mark(0, f"link to {path.readlink()}")
    state = state_of(path)
    known = _marks.get(path)
    if known is not None and known[0] == state:
        return known[1]
    mark = measured(path)
    _marks[path] = state, mark
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


def root_of(path: Path) -> Path | None:
    """The nearest folder above that has a journal, as a run directory has; None outside of runs."""
    return next((folder for folder in path.absolute().parents if (folder / JOURNAL).is_dir()), None)


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


def name_write(moment: str, path: Path, temporary: Path) -> None:
    """A watcher of writes: names the content of each before it becomes visible."""
    root = root_of(path)
    if root is None:
        return
    path = path.absolute()
    if moment == BEFORE:
        mark = measured(temporary)
        append(root, {"file": str(path.relative_to(root)), "mark": mark})
        _marks[path] = (), mark  # its state is known when it is there
    elif moment == AFTER:
        _marks[path] = state_of(path), _marks[path][1]


watchers.append(name_write)


@dataclass(frozen=True)
class Manifest:
    """`stages/<stage>.json`. places: what the stage writes, and, in `changes`, files of earlier stages that it
    rewrites; files: None until the stage is done; steps: the files of its steps."""

    fingerprint: str | None
    places: tuple[str, ...] | None
    changes: tuple[str, ...]
    files: dict[str, Mark] | None
    steps: dict[str, list[str]]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """An empty one where there is none or it is damaged: then nothing of the stage is trusted."""
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            files = tree.get("files")
            return cls(
                tree["fingerprint"],
                None if "outputs" not in tree else tuple(tree["outputs"]),
                tuple(tree.get("changes", ())),
                None if files is None else {name: Mark(*mark) for name, mark in files.items()},
                dict(tree.get("steps", {})),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(None, None, (), None, {})

    def write(self, path: Path) -> None:
        tree: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "outputs": self.places,
            "changes": self.changes,
        }
        if self.files is not None:
            tree |= {"files": self.files, "steps": self.steps}
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


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


def inside(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)


def files_under(places: Iterable[Path]) -> Iterator[Path]:
    """Files and links below some places, sorted, but not what an interrupted write left."""
    for path in places:
        found = [path] if path.is_file() or path.is_symlink() else path.rglob("*")
        for each in sorted(found):
            if (each.is_file() or each.is_symlink()) and each.suffix != PARTIAL:
                yield each


def sweep(places: Sequence[Path], known: Container[str] = ()) -> None:
    """Remove below `places` whatever is not whole, and say so: what is left was written by the work that goes on.

    Whether a file is there then tells what is made from what is not, until the work ends. places: of one run; known:
    files of which it was said before.
    """
    root = root_of(places[0]) if places else None
    if root is None:
        return
    ledger = Ledger(root)
    paths = list(files_under(places))
    if paths and not any(ledger.marks(ledger.name_of(path)) for path in paths):
        first, more = paths[0], len(paths) - 1
        say(
            "%s%s: no checksums, as in runs of earlier versions; made anew",
            first,
            f" and {more:,} files more" if more else "",
        )
        for place in places:
            remove(place)
        return
    for path in paths:
        state = ledger.state(path)
        if state == "whole" or (state == "unnamed" and path.is_symlink()):
            continue
        if ledger.name_of(path) not in known:
            what = "was not written by this audit" if state == "unnamed" else state
            say("%s: %s; it is removed and made anew", path, what)
        path.unlink()


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Step:
    """Work whose files are only of use together: `done` when all of them are whole, and `finish` was called.

    places: the files and folders that it writes.
    """

    def __init__(self, *places: Path):
        self._root = root_of(places[0])
        root = self._root or Path("/")
        self._places = [str(place.absolute().relative_to(root)) for place in places]

    @property
    def done(self) -> bool:
        if self._root is None:
            return False
        ledger = Ledger(self._root)
        name = self._places[0]
        found = [
            *ledger.steps.get(name, []),
            *(each.steps[name] for each in ledger.manifests.values() if name in each.steps),
        ]
        return any(all(ledger.state(ledger.root / each) == "whole" for each in files) for files in found)

    @property
    def intact(self) -> bool:
        """Whether everything is whole that was written so far, so that interrupted work can go on."""
        if self._root is None:
            return True
        ledger = Ledger(self._root)
        names = [name for name in ledger.written if inside(name, self._places)]
        states = {name: ledger.state(ledger.root / name) for name in names}
        return all(
            state == "whole" or (state == "is missing" and not ledger.was_there(name))
            for name, state in states.items()
        )

    def finish(self, *passing: Path) -> None:
        """Name the files that are there. passing: files that are removed now."""
        if self._root is not None:
            left = {str(path.absolute().relative_to(self._root)) for path in passing}
            there = files_under(self._root / place for place in self._places)
            names = [str(path.relative_to(self._root)) for path in there if not path.is_symlink()]
            files = [name for name in names if name not in left]
            append(self._root, {"step": self._places[0], "files": files})
        for path in passing:
            path.unlink(missing_ok=True)


def left_over(path: Path) -> bool:
    """Whether a file lies as an interrupted step wrote it, so that the step may write it again."""
    root = root_of(path)
    return root is not None and Ledger(root).state(path) == "whole" and not Step(path).done


def begin_stage(
    root: Path,
    stage: str,
    fingerprint: str,
    places: tuple[str, ...],
    changes: tuple[str, ...],
    known: Container[str] = (),
) -> None:
    """Forget what a stage wrote under another fingerprint; else keep what is whole. known: as in `sweep`."""
    begin_journal(root)
    path = root / STAGES / f"{stage}.json"
    ledger = Ledger(root)
    before = ledger.manifests.get(stage, Manifest(None, None, (), None, {}))
    new = Manifest(fingerprint, places, changes, None, {})
    if before.fingerprint == fingerprint:
        if before.places != places:
            new.write(path)
        sweep([root / place for place in places], known)
        return
    for place in places:
        remove(root / place)
    for name in changes:
        if before.files and name in before.files:  # it stays, and is no longer named there
            append(root, {"file": name, "mark": before.files[name]})
    Ledger(root).compact(places)
    new.write(path)


def finish_stage(root: Path, stage: str, fingerprint: str) -> None:
    """Write the manifest of a stage that is done; nothing where it was not begun."""
    path = root / STAGES / f"{stage}.json"
    begun = Manifest.read(path)
    if begun.fingerprint != fingerprint or begun.places is None:
        return
    places = (*begun.places, *begun.changes)
    ledger = Ledger(root)
    files = {}
    for file in files_under(ledger.root / place for place in places):
        name = ledger.name_of(file)
        # What was named of a file is taken at its word: damage since then is to be found.
        marks = current(file, list(dict.fromkeys(ledger.marks(name))))
        files[name] = marks[0] if marks else mark_of(file)
    steps = begun.steps | {name: found[-1] for name, found in ledger.steps.items() if inside(name, places)}
    Manifest(fingerprint, begun.places, begun.changes, files, dict(sorted(steps.items()))).write(path)
    Ledger(root).compact(places)


def damage(ledger: Ledger, stage: str) -> dict[str, str] | None:
    """What is wrong with the files of a stage that is done, in words; None where it has no manifest."""
    broken = ledger.broken_manifest(stage)
    if broken is not None:
        return {f"{STAGES}/{stage}.json": broken}
    manifest = ledger.manifests.get(stage)
    if manifest is None or manifest.files is None:
        return None
    found = {}
    for name, mark in manifest.files.items():
        # A later stage may have rewritten the file; its own manifest then says how it must be.
        others = ledger.written.get(name, []) if name in manifest.changes else ledger.marks(name)
        state = judged(ledger.root / name, [*others, mark])
        if state != "whole":
            found[name] = state
    return found
