"""Kills and damage: `python -m benchmarks.reliability [--kills 30]` writes benchmarks/results/reliability.json.

Audits of 60 rows for two epochs are killed before and after every write (`benchmarks.kills`): the default one, every
method, ensembles, repeats, harm to groups, fidelity, exact differentiation, and the commands report, export and review.
Every kind of file of a finished run is damaged in every way. Then audits on real workers are killed by `kill -9` at
random moments. Resumed runs are compared with uninterrupted ones byte for byte.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.kills import (
    COMMANDS,
    DAMAGES,
    VARIANTS,
    Uninterrupted,
    copy_run,
    damage,
    kinds_of_files,
    resume,
    run_to,
    wrong_kills,
    wrong_kills_of,
)
from benchmarks.results import write_results
from benchmarks.tiny_run import RUN, tiny_config, write_tiny
from pipeline.attribution.atomic import AFTER, BEFORE
from pipeline.stages.stages import STAGES

LAST = STAGES[-1].name
MOMENTS = (BEFORE, AFTER)
RESULTS = ("rows.parquet", "signals.parquet", "catalog.parquet", "verification.json")
"""Files that are the same in every run; retrainings also hold how long they took."""


def row(task: str, method: str, value: int, n: int) -> dict[str, Any]:
    print(f"{task}, {method}: {value} of {n} resumed runs differ", flush=True)
    return {"task": task, "method": method, "metric": "resumed runs that differ", "value": value, "n": n}


def kills_of_audits(folder: Path) -> tuple[Uninterrupted, list[dict[str, Any]]]:
    """Before and after every write of the default audit and of the others."""
    default = run_to(tiny_config(folder), made(folder / "default"), LAST, moments=MOMENTS)
    rows = [row("kill at a write", "default", len(wrong_kills(default)), len(default.kills))]
    for name, (after, last, changes) in VARIANTS.items():
        place = made(folder / name)
        if after:
            copy_run(default.ends[after] / RUN, place / RUN)
        found = run_to(tiny_config(folder, **changes), place, last, moments=MOMENTS)
        rows.append(row("kill at a write", name, len(wrong_kills(found)), len(found.kills)))
    for name, command in COMMANDS.items():
        place = made(folder / f"command {name}")
        wrong = wrong_kills_of(command, default.ends[LAST], place)
        rows.append(row("kill at a write", name, len(wrong), len(list(place.iterdir())) - 1))
    return default, rows


def damages(default: Uninterrupted, folder: Path) -> list[dict[str, Any]]:
    """Every kind of file of the finished default audit, damaged in every way."""
    rows, kinds = [], kinds_of_files(default.ends[LAST] / RUN)
    for how in DAMAGES:
        wrong = 0
        for names in kinds.values():
            copy = folder / "damaged"
            copy_run(default.ends[LAST] / RUN, copy / RUN)
            damage(copy / RUN / names[-1], how)
            wrong += bool(resume(default, copy, LAST))
            shutil.rmtree(copy)
        rows.append(row("damaged file", how, wrong, len(kinds)))
    return rows


def real_kills(folder: Path, kills: int) -> list[dict[str, Any]]:
    """`kill -9` of audits on two workers, at moments spread evenly at random over the time that one takes."""
    config = folder / "tiny.yaml"
    config.write_text(tiny_config(folder, compute__workers=2).to_yaml())
    begin = time.monotonic()
    run_process(config, folder / "whole" / RUN, None)
    seconds = time.monotonic() - begin
    expected, wrong, chance = results(folder / "whole" / RUN), 0, random.Random(0)
    for number in range(kills):
        run = folder / f"killed-{number}" / RUN
        run_process(config, run, seconds * chance.random())
        run_process(config, run, None)
        wrong += results(run) != expected
        shutil.rmtree(run.parent)
    return [row("kill -9 at a random moment", "default", wrong, kills)]


def run_process(config: Path, run: Path, killed_after: float | None) -> None:
    """Audit in a process of its own, to the end or until it is killed."""
    code = f"import pipeline\npipeline.audit({str(config)!r}, {str(run)!r})"
    script = config.with_suffix(".py")
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    try:
        if process.wait(killed_after):
            raise RuntimeError(f"the audit in {run} failed")
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
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        write_tiny(folder)
        default, rows = kills_of_audits(folder)
        rows += damages(default, folder)
        rows += real_kills(folder, arguments.kills)
    print(write_results("reliability", rows))


if __name__ == "__main__":
    main()
