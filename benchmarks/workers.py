"""Two workers against one, and what the scheduling itself costs.

    python -m benchmarks.workers [--quick]

The stages factors and attribute run on 200,000 rows of `benchmarks.large_data` (25 chunks of 8,192 rows) with one
worker and with two, by turns, each time anew in a copy of one trained run directory. Two workers halve the wall
time only where two cores are free, so the median of the paired ratios stands beside the load of the machine. The
share of scheduling is the CPU time of the process that hands tasks out (scheduler and client) over the CPU time of
all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from benchmarks.large import config_of
from benchmarks.large_data import make_dataset
from benchmarks.results import CACHE, write_results
from pipeline.config import AuditConfig
from pipeline.open_run import open_run
from pipeline.run import remove
from pipeline.stages import STAGES, fingerprints, run_stage

ROWS, QUICK_ROWS = 200_000, 50_000
WARM_UP = ("prepare", "train")
MEASURED = ("factors", "attribute")
PAIRS = 5
TARGET_SPEEDUP, TARGET_SHARE = 1.7, 0.02


def make_config(rows: int, workers: int) -> AuditConfig:
    data = CACHE / "large" / str(rows)
    make_dataset(data, rows)
    return config_of(data).with_changes({"compute.workers": workers, "detection.halves": False})


def cpu_by_process() -> tuple[float, float]:
    """CPU seconds of this process, and of all its descendants."""
    me = psutil.Process()
    total = 0.0
    for process in me.children(recursive=True):
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            continue
    return sum(me.cpu_times()[:2]), total


def measure(config: AuditConfig, trained: Path, folder: Path) -> dict[str, float]:
    """Wall seconds of the measured stages once the workers are up, and CPU seconds of both sides."""
    path = folder / "run"
    remove(path)
    shutil.copytree(trained, path)
    with open_run(config, path) as context:
        context.workers.client.run(import_module, "pipeline.compute.attribute")
        expected = fingerprints(config)
        mine, theirs = cpu_by_process()
        begin = time.perf_counter()
        for stage in STAGES:
            if stage.name in MEASURED:
                run_stage(stage, context, expected[stage.name])
        wall = time.perf_counter() - begin
        after = cpu_by_process()
    return {"wall": wall, "here": after[0] - mine, "workers": after[1] - theirs}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--quick", action="store_true", help="50,000 rows, once")
    quick = parser.parse_args().quick
    rows_used = QUICK_ROWS if quick else ROWS
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained"
        config = make_config(rows_used, 2)
        with open_run(config, trained) as context:
            for stage in STAGES:
                if stage.name in WARM_UP:
                    run_stage(stage, context, fingerprints(config)[stage.name])
        for turn in range(1 if quick else PAIRS):
            for workers in (1, 2) if turn % 2 == 0 else (2, 1):
                found[workers].append(measure(make_config(rows_used, workers), trained, Path(folder)))
                print(workers, found[workers][-1], flush=True)
    ratios = [one["wall"] / two["wall"] for one, two in zip(found[1], found[2])]
    shares = [each["here"] / (each["here"] + each["workers"]) for each in found[1] + found[2]]
    load = os.getloadavg()[1]
    rows: list[dict[str, Any]] = [
        line("ratio", ratios, TARGET_SPEEDUP, statistics.median(ratios) >= TARGET_SPEEDUP),
        line("scheduling_share", shares, TARGET_SHARE, statistics.median(shares) <= TARGET_SHARE),
    ]
    for row in rows:
        row["load_average"] = load
        print(row)
    print(write_results("workers", rows))


def line(metric: str, values: list[float], target: float, met: bool) -> dict[str, Any]:
    row = {"task": "two_workers", "method": "winnow", "metric": metric, "value": statistics.median(values)}
    return row | {"low": min(values), "high": max(values), "n": len(values), "target": target, "met": met}


if __name__ == "__main__":
    main()
