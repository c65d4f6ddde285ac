"""Two workers against one, and what the scheduling itself costs.

    python -m benchmarks.workers [--quick]

The stages factors and attribute run on 200,000 rows of `benchmarks.large_data` (25 chunks of 8,192 rows) with one
worker and with two, by turns, each time anew in a copy of one trained run directory. Two workers halve the wall
time only where two cores are free, so the median of the paired ratios stands beside the load of the machine and
beside the CPU seconds per wall second that the workers got.

What scheduling costs is measured with one worker, where nothing waits for another: the share of the stage's wall time
in which no task was running, by the worker's own record of its tasks. It holds everything between the tasks: scheduler,
client, messages, and what the main process does by itself. With two workers the same share holds what they waited for
each other, too. An interrupted run continues where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch
from distributed import get_task_stream

from benchmarks.large import config_of
from benchmarks.large_data import make_dataset
from benchmarks.results import CACHE, write_results
from pipeline.config import AuditConfig
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import read_json, remove, write_json
from pipeline.stages.opening import open_run
from pipeline.stages.stages import STAGES, Stage, fingerprints, run_stage

ROWS, QUICK_ROWS = 200_000, 50_000
WARM_UP = ("prepare", "train")
MEASURED = ("factors", "attribute")
PAIRS = 5
TARGET_SPEEDUP, TARGET_SHARE = 1.7, 0.02


@dataclass(frozen=True)
class Measured:
    """Of one stage, in seconds: wall, inside tasks (all workers together), and CPU of the workers."""

    wall: float
    tasks: float
    cpu: float
    load: float


def make_config(rows: int, workers: int) -> AuditConfig:
    data = CACHE / "large" / str(rows)
    make_dataset(data, rows)
    return config_of(data).with_changes({"compute.workers": workers, "detection.halves": False})


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            continue
    return total


def measure(config: AuditConfig, trained: Path, path: Path) -> dict[str, Measured]:
    """The measured stages, once the workers are up and have imported what they need; each computes with one thread."""
    remove(path)
    shutil.copytree(trained, path)
    with open_run(config, path) as context:
        client = context.workers.client
        client.run(import_module, "pipeline.scoring.attribute")
        for address in client.scheduler_info(n_workers=-1)["workers"]:
            client.submit(torch.set_num_threads, 1, pure=False, workers=[address]).result()
        expected = fingerprints(config)
        chosen = [stage for stage in STAGES if stage.name in MEASURED]
        found = {stage.name: measure_stage(stage, context, expected[stage.name]) for stage in chosen}
    remove(path)
    return found


def measure_stage(stage: Stage, context: AuditContext, fingerprint: str) -> Measured:
    cpu, load = cpu_of_children(), os.getloadavg()[0]
    with get_task_stream(context.workers.client) as stream:
        begin = time.perf_counter()
        run_stage(stage, context, fingerprint)
        wall = time.perf_counter() - begin
    steps = [step for task in stream.data for step in task["startstops"] if step["action"] == "compute"]
    return Measured(wall, sum(step["stop"] - step["start"] for step in steps), cpu_of_children() - cpu, load)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--quick", action="store_true", help="50,000 rows, once")
    quick = parser.parse_args().quick
    rows_used = QUICK_ROWS if quick else ROWS
    folder = CACHE / "workers" / str(rows_used)
    train(make_config(rows_used, 2), folder / "trained")
    found: dict[int, list[dict[str, Measured]]] = {1: [], 2: []}
    turns = [(turn, workers) for turn in range(1 if quick else PAIRS) for workers in turn_order(turn)]
    for turn, workers in turns:
        path = folder / f"turn-{turn}-{workers}.json"
        if not path.exists():
            measured = measure(make_config(rows_used, workers), folder / "trained", folder / "run")
            write_json(path, {stage: asdict(each) for stage, each in measured.items()})
        found[workers].append({stage: Measured(**each) for stage, each in read_json(path).items()})
        print(workers, found[workers][-1], flush=True)
    rows = summarise(found)
    for row in rows:
        print(row)
    print(write_results("workers", rows))
    for turn, workers in turns:
        (folder / f"turn-{turn}-{workers}.json").unlink()


def train(config: AuditConfig, path: Path) -> None:
    with open_run(config, path) as context:
        expected = fingerprints(config)
        for stage in STAGES:
            if stage.name in WARM_UP:
                run_stage(stage, context, expected[stage.name])


def turn_order(turn: int) -> tuple[int, int]:
    return (1, 2) if turn % 2 == 0 else (2, 1)


def summarise(found: dict[int, list[dict[str, Measured]]]) -> list[dict[str, Any]]:
    """One row per metric, over both stages together and for each."""
    rows = []
    for stages in (MEASURED, *((stage,) for stage in MEASURED)):
        total = {n: [add([turn[stage] for stage in stages]) for turn in turns] for n, turns in found.items()}
        name = " + ".join(stages)
        ratios = [one.wall / two.wall for one, two in zip(total[1], total[2])]
        rows.append(line(name, "speed-up of two workers", ratios) | at_least(ratios, stages == MEASURED))
        shares = [1 - each.tasks / each.wall for each in total[1]]
        rows.append(
            line(name, "share without a task, 1 worker", shares) | at_most(shares, stages == MEASURED)
        )
        rows.append(
            line(name, "share without a task, 2 workers", [1 - e.tasks / (2 * e.wall) for e in total[2]])
        )
        for workers, values in total.items():
            rows.append(line(name, f"wall seconds, {workers} workers", [each.wall for each in values]))
            rows.append(
                line(name, f"cores got, {workers} workers", [each.cpu / each.wall for each in values])
            )
    loads = [measured.load for turns in found.values() for turn in turns for measured in turn.values()]
    return [*rows, line("all", "load average", loads)]


def add(parts: list[Measured]) -> Measured:
    return Measured(
        *(sum(getattr(each, name) for each in parts) for name in ("wall", "tasks", "cpu", "load"))
    )


def at_least(values: list[float], has_target: bool) -> dict[str, Any]:
    met = statistics.median(values) >= TARGET_SPEEDUP
    return {"target": f"≥ {TARGET_SPEEDUP}", "met": met} if has_target else {}


def at_most(values: list[float], has_target: bool) -> dict[str, Any]:
    met = statistics.median(values) <= TARGET_SHARE
    return {"target": f"≤ {TARGET_SHARE}", "met": met} if has_target else {}


def line(stage: str, metric: str, values: list[float]) -> dict[str, Any]:
    """The median, least and largest."""
    row = {"task": stage, "method": "winnow", "metric": metric, "value": statistics.median(values)}
    return row | {"low": min(values), "high": max(values), "n": len(values)}


if __name__ == "__main__":
    main()
