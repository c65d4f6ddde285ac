"""Kills between two writes: what an audit leaves on disk at every write, and whether it goes on from there.

A watcher of the one atomic writer copies the run directory before each write becomes visible: that is what a kill at
this moment leaves. Every copy is then resumed to the end of the stage that was interrupted, where all that lies in the
run has to be the same, byte for byte, as in the run that nobody interrupted; from there the rest follows, since the
later stages see the same files.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.tiny_run import PASSING, RUN, contents, differences, in_folder, tiny_audit
from pipeline.attribution.atomic import BEFORE, watchers
from pipeline.config import AuditConfig, load_config
from pipeline.reviewing.holdout import write_holdout_sheet
from pipeline.reviewing.review import write_sheet
from pipeline.stages.again import export_again, report_again
from pipeline.stages.stages import STAGES, fingerprints, run_stage
from pipeline.trace.trace import trace

VARIANTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "fast_source": ("train", "attribute", {"attribution__method": "fast_source"}),
    "influence": ("train", "attribute", {"attribution__method": "influence"}),
    "tracin": ("train", "attribute", {"attribution__method": "tracin"}),
    "trak": ("train", "attribute", {"attribution__method": "trak"}),
    "source_refined in two segments": (
        "train",
        "attribute",
        {
            "attribution__method": "source_refined",
            "attribution__segments": 2,
            "attribution__refined_rows": 8,
            "attribution__refined_iterations": 2,
        },
    ),
    "ensemble": ("train", "attribute", {"attribution__ensemble": 2}),
    "group_harm": ("", "attribute", {"data__slices": "site", "attribution__group_harm": True}),
    "repeats": ("panel", "detect", {"detection__repeats": 2}),
    "fidelity": ("detect", "verify", {"verification__fidelity": 5}),
    "unrolled": ("detect", "verify", {"verification__unrolled": True}),
    "an early window after training": ("prepare", "attribute", {"detection__halves": False}),
}
"""Of the default audit: after which stage it is another, the last stage that differs, and what is changed."""


def trace_validation(run: Path) -> None:
    """A trace of the run's own validation rows."""
    (rows,) = load_config(run / "config.yaml").data.validation or ()
    trace(run, rows)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "report": report_again,
    "export": export_again,
    "export of what was proposed": partial(export_again, proposed=True),
    "review": partial(write_sheet, sample=5),
    "review of the holdout": partial(write_holdout_sheet, sample=5),
    "trace": trace_validation,
}


@dataclass(frozen=True)
class Kill:
    """What lay on disk before a write, by its number and path. folder: of the copy, which has the run in `run/`."""

    number: int
    stage: str
    path: str
    moment: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.moment} write {self.number}, {self.path}, in {self.stage}"


@dataclass
class Uninterrupted:
    """An audit that nobody interrupted. states, ends: what lay in it after each stage, and a copy of it; kills: what
    kills would have left."""

    config: AuditConfig
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    ends: dict[str, Path] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)


def copy_run(run: Path, target: Path) -> None:
    """A copy whose files are the same on disk: none is ever changed in place, but for the journal."""

    def place(source: str, copy: str) -> None:
        if any(part in PASSING for part in Path(source).parts):
            shutil.copyfile(source, copy)
        else:
            os.link(source, copy, follow_symlinks=False)

    shutil.copytree(run, target, symlinks=True, copy_function=place)


@contextmanager
def watched(watcher: Callable[[str, Path, Path], None]) -> Iterator[None]:
    watchers.append(watcher)
    try:
        yield
    finally:
        watchers.remove(watcher)


def run_to(
    config: AuditConfig,
    folder: Path,
    last: str,
    every: int = 1,
    moments: tuple[str, ...] = (BEFORE,),
    seed: str = "kills",
) -> Uninterrupted:
    """Audit in `folder` up to the stage `last`; copy what lies there before a write in `every`, by the seed."""
    found = Uninterrupted(config)
    offset, number, stage = random.Random(seed).randrange(every), 0, STAGES[0].name

    def keep(moment: str, path: Path, _temporary: Path) -> None:
        nonlocal number
        number += moment == BEFORE
        path = path.absolute()
        if moment in moments and path.is_relative_to(folder) and number % every == offset:
            kept = folder / "kills" / f"{number}-{moment}"
            copy_run(folder / RUN, kept / RUN)
            found.kills.append(Kill(number, stage, str(path.relative_to(folder)), moment, kept))

    with tiny_audit(config, folder) as context, watched(keep):
        expected = fingerprints(config)
        for each in STAGES:
            stage = each.name
            run_stage(each, context, expected[stage])
            found.states[stage] = contents(folder / RUN)
            found.ends[stage] = folder / "ends" / stage
            copy_run(folder / RUN, found.ends[stage] / RUN)
            if stage == last:
                break
    return found


def resume(found: Uninterrupted, folder: Path, last: str) -> list[str]:
    """Go on in a copy to the end of the stage `last`; the files that are then not as they would have been."""
    with tiny_audit(found.config, folder) as context:
        expected = fingerprints(found.config)
        for each in STAGES:
            run_stage(each, context, expected[each.name])
            if each.name == last:
                break
    return differences(folder / RUN, found.states[last])


def kills_of_command(command: Callable[[Path], Any], start: Path, folder: Path) -> dict[str, list[str]]:
    """The kills of a command on a finished run, before each of its writes, after which it was given again.

    Returns the files that differ, of every kill. command: called with the run's path; start: the folder that has the
    run before it; folder: an empty one.
    """
    copies: list[tuple[str, Path]] = []

    def keep(moment: str, path: Path, _temporary: Path) -> None:
        if moment == BEFORE:
            copies.append((str(path), folder / f"{len(copies)}"))
            copy_run(here / RUN, copies[-1][1] / RUN)

    here = folder / "uninterrupted"
    copy_run(start / RUN, here / RUN)
    with in_folder(here), watched(keep):
        command(RUN)
    expected, found = contents(here / RUN), {}
    for number, (path, copy) in enumerate(copies):
        with in_folder(copy):
            command(RUN)
        found[f"before write {number}, {path}"] = differences(copy / RUN, expected)
    return found


def wrong_kills(found: Uninterrupted) -> dict[str, list[str]]:
    """The kills that changed something, with the files."""
    return {str(kill): wrong for kill in found.kills if (wrong := resume_copy(found, kill))}


def resume_copy(found: Uninterrupted, kill: Kill) -> list[str]:
    """As `resume`; what the kill left stays as it is."""
    copy = kill.folder.with_name("resumed")
    copy_run(kill.folder / RUN, copy / RUN)
    try:
        return resume(found, copy, kill.stage)
    finally:
        shutil.rmtree(copy)


def flip(content: bytes) -> bytes:
    """One bit in the middle is another."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "one bit flipped": flip,
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "deleted": lambda content: None,
    "foreign": lambda content: b"a file of somebody else",
}


def damage(path: Path, how: str) -> None:
    """Not in place: copies of runs share their files."""
    content = DAMAGES[how](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def kinds_of_files(run: Path) -> dict[str, list[str]]:
    """The files of a run by what they are: names that differ in numbers and roles are of one kind."""
    found: dict[str, list[str]] = {}
    for name in contents(run):
        kind = re.sub(r"\d+", "0", name)
        for role in ("train", "validation", "holdout"):
            kind = kind.replace(role, "role")
        found.setdefault(kind, []).append(name)
    return found
