"""What is kept of a stage that begins, what is named of one that ends, and what is damaged of one that is done."""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts.files import files_under, inside, remove
from pipeline.artifacts.journal import append, begin_journal, root_of
from pipeline.artifacts.ledger import Ledger, current, judged
from pipeline.artifacts.manifest import STAGES, Manifest
from pipeline.artifacts.marks import mark_of

say = logging.getLogger("winnow").warning
"""Tells the person what was found damaged, and what happens now."""


def begin_stage(
    root: Path,
    stage: str,
    fingerprint: str,
    places: tuple[str, ...],
    changes: tuple[str, ...],
    known: Container[str] = (),
    before: str | None = None,
    keeps: tuple[str, ...] = (),
) -> None:
    """Forget what a stage wrote under another fingerprint; else keep what is whole.

    known: as in `sweep`. before: the fingerprint of the stage before it. keeps: those of `places` whose files depend
    on that stage and their names alone, and are kept as long as it is the same.
    """
    begin_journal(root)
    path = root / STAGES / f"{stage}.json"
    ledger = Ledger(root)
    earlier = ledger.manifests.get(stage, Manifest(None, None, (), None, {}))
    new = Manifest(fingerprint, places, changes, None, {}, before)
    if earlier.fingerprint == fingerprint:
        if earlier.places != places:
            new.write(path)
        sweep([root / place for place in places], known)
        return
    kept = keeps if before is not None and earlier.before == before else ()
    forgotten = tuple(place for place in places if place not in kept)
    for place in forgotten:
        remove(root / place)
    # What stays is no longer named in the manifest of the stage.
    for name, mark in (earlier.files or {}).items():
        if name in changes or inside(name, kept):
            append(root, {"file": name, "mark": mark})
    for step, names in earlier.steps.items():
        if inside(step, kept):
            append(root, {"step": step, "files": names})
    Ledger(root).compact(forgotten)
    new.write(path)
    sweep([root / place for place in kept], known)


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
    replace(begun, files=files, steps=dict(sorted(steps.items()))).write(path)
    Ledger(root).compact(places)


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
