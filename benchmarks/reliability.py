"""Kills and damage: `python -m benchmarks.reliability [--kills 30]` writes benchmarks/results/reliability.json.

Audits of 60 rows for two epochs are killed before and after every write (`benchmarks.kills`): the default one, every
method, ensembles, repeats, harm to groups, fidelity, exact differentiation, and the commands report, export and review.
Every kind of file of a finished run is damaged in every way. Then audits on real workers are killed by `kill -9` at
random moments. Resumed runs are compared with uninterrupted ones byte for byte.

All of it takes an hour or so, the shortest first. What was found out is kept in benchmarks/cache/reliability/, by
commit: the same command goes on after an interruption. The results have what is complete so far.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.kills import (
    COMMANDS,
    DAMAGES,
    VARIANTS,
    Uninterrupted,
    copy_run,
    damage,
    kills_of_command,
    kinds_of_files,
    resume,
    resume_copy,
    run_to,
)
from benchmarks.results import CACHE, commit, write_results
from benchmarks.tiny_run import RUN, tiny_config, write_tiny
from pipeline.attribution.atomic import AFTER, BEFORE
from pipeline.stages.stages import STAGES

LAST = STAGES[-1].name
MOMENTS = (BEFORE, AFTER)
RESULTS = ("rows.parquet", "signals.parquet", "catalog.parquet", "verification.json")
"""Files that are the same in every run; retrainings also hold how long they took."""


Row = dict[str, Any]
Found = dict[str, list[str]]
"""Kills or damages by what they are, each with the files that were not as they would have been."""


class Notes:
    """What was found out at this commit, a line for each attempt; an attempt that has one is not made again."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with suppress(ValueError):  # a line that an interruption cut off
                self._known |= dict([json.loads(line)])

    def find(self, attempt: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, JSON, for this attempt."""
        if attempt not in self._known:
            self._known[attempt] = make()
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps([attempt, self._known[attempt]]) + "\n")
        return self._known[attempt]


def row(task: str, method: str, found: Found) -> Row:
    """A line of the results; what was wrong is printed."""
    wrong = {attempt: files for attempt, files in found.items() if files}
    print(f"{task}, {method}: {len(wrong)} of {len(found)} resumed runs differ", flush=True)
    for attempt, files in wrong.items():
        print(f"    {attempt}: {', '.join(files)}", flush=True)
    return {
        "task": task,
        "method": method,
        "metric": "resumed runs that differ",
        "value": len(wrong),
        "n": len(found),
    }


def kills_of_commands(default: Uninterrupted, folder: Path, notes: Notes) -> Iterator[Row]:
    """Before every write of a command on the finished default audit."""
    for name, command in COMMANDS.items():
        place = made(folder / f"command {name}")
        found = notes.find(name, lambda: kills_of_command(command, default.ends[LAST], place))  # noqa: B023
        yield row("kill at a write", name, found)
        shutil.rmtree(place)


def kills_of_audits(default: Uninterrupted, folder: Path, notes: Notes) -> Iterator[Row]:
    """Before and after every write of the other audits, then of the default one."""
    for name, (after, last, changes) in VARIANTS.items():
        place = made(folder / name)
        if after:
            copy_run(default.ends[after] / RUN, place / RUN)
        audit = run_to(tiny_config(folder, **changes), place, last, moments=MOMENTS)
        yield row("kill at a write", name, kills_of(name, audit, notes))
        shutil.rmtree(place)
    yield row("kill at a write", "default", kills_of("default", default, notes))


def kills_of(name: str, audit: Uninterrupted, notes: Notes) -> Found:
    return {
        str(kill): notes.find(f"{name}: {kill}", lambda: resume_copy(audit, kill))  # noqa: B023
        for kill in audit.kills
    }


def damages(default: Uninterrupted, folder: Path, notes: Notes) -> Iterator[Row]:
    """Every kind of file of the finished default audit, damaged in every way."""
    whole = default.ends[LAST] / RUN

    def mended(name: str, how: str) -> list[str]:
        copy = folder / "damaged"
        copy_run(whole, copy / RUN)
        damage(copy / RUN / name, how)
        try:
            return resume(default, copy, LAST)
        finally:
            shutil.rmtree(copy)

    names = [names[-1] for names in kinds_of_files(whole).values()]
    for how in DAMAGES:
        found = {name: notes.find(f"{name}, {how}", lambda: mended(name, how)) for name in names}  # noqa: B023
        yield row("damaged file", how, found)


def real_kills(folder: Path, kills: int, notes: Notes) -> Iterator[Row]:
    """`kill -9` of audits on two workers, at moments spread evenly at random over the time that one takes."""
    config = folder / "tiny.yaml"
    config.write_text(tiny_config(folder, compute__workers=2).to_yaml())
    whole = folder / "whole" / RUN

    def took() -> float:
        begin = time.monotonic()
        run_process(config, whole, None)
        return time.monotonic() - begin

    def killed(number: int) -> list[str]:
        if not whole.exists():
            run_process(config, whole, None)
        run = folder / f"killed-{number}" / RUN
        run_process(config, run, seconds * random.Random(number).random())
        try:
            run_process(config, run, None)
        except RuntimeError as error:
            return [f"the resumed audit failed: {error}"]
        there, expected = results(run), results(whole)
        shutil.rmtree(run.parent)
        return [name for name in sorted(there | expected) if there.get(name) != expected.get(name)]

    seconds = notes.find("seconds", took)
    found = {str(number): notes.find(f"kill -9, {number}", lambda: killed(number)) for number in range(kills)}  # noqa: B023
    yield row("kill -9 at a random moment", "default", found)


def run_process(config: Path, run: Path, killed_after: float | None) -> None:
    """Audit in a process of its own, to the end or until it is killed.

    Raises:
        RuntimeError: the audit failed; the message is the end of what it said.
    """
    code = f"import pipeline\npipeline.audit({str(config)!r}, {str(run)!r})"
    script = config.with_suffix(".py")
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=said)
        try:
            if process.wait(killed_after):
                said.seek(0)
                raise RuntimeError(said.read()[-1000:])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()


def results(run: Path) -> dict[str, bytes]:
    exported = [path for name in ("cleaned", "quarantine") for path in (run / name).glob("*.parquet")]
    scores = (run / "scores").glob("*.parquet")
    paths = [*(run / name for name in RESULTS), *exported, *scores]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="real kills")
    arguments = parser.parse_args()
    notes = Notes(CACHE / "reliability" / f"{commit()}.jsonl")
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write_tiny(folder)
        default = run_to(tiny_config(folder), made(folder / "default"), LAST, moments=MOMENTS)
        rows: list[Row] = []
        for found in chain(
            kills_of_commands(default, folder, notes),
            damages(default, folder, notes),
            kills_of_audits(default, folder, notes),
            real_kills(folder, arguments.kills, notes),
        ):
            rows.append(found)
            path = write_results("reliability", rows)
    print(path)


if __name__ == "__main__":
    main()
