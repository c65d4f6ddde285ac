"""What a whole audit costs: time, memory of every process, and the share of time that is not the work itself.

    python -m benchmarks.audit_cost [--quick]

The command `winnow audit configs/fashion_mnist.yaml --output NEW` is run as a user would run it, with
verification on 5 seeds × 3 arms. All processes that it starts (workers, the Prefect server) are sampled while
it runs. And `winnow --help` is timed, 5 times. `--quick`: the digits with 2 seeds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.demo import DONE, REFUSED, ROOT, WINNOW
from benchmarks.results import write_results
from pipeline.errors import WinnowError
from pipeline.runs.directory import RunDirectory

WORK = ("train", "factors", "attribute", "verify")
"""Training, attribution and verification; factors are a part of attribution."""
SAMPLING_SECONDS = 0.1
HELP_RUNS = 5
TARGETS = {
    "wall_seconds": 360.0,
    "share_outside_train_factors_attribute_verify": 0.15,
    "largest_process_bytes": 2.0 * 2**30,
    "help_seconds": 1.0,
}
"""At most this much, of the full version."""
KINDS = {
    "local_worker": "Dask worker",
    "server_process": "Prefect server",
    "resource_tracker": "resource tracker",
}
"""Processes that an audit starts, by a part of their command lines."""


class MemorySampler:
    """Samples the resident memory of a process and all its descendants, in a thread, until `stop()`.

    largest: bytes of the largest single process of each kind; total: bytes of all of them together at the
    worst moment (pages that processes share are counted in each).
    """

    def __init__(self, pid: int):
        self.largest: dict[str, int] = defaultdict(int)
        self.total = 0
        self._root = psutil.Process(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLING_SECONDS):
            try:
                self._sample()
            except psutil.NoSuchProcess:
                return

    def _sample(self) -> None:
        total = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                resident = process.memory_info().rss
                kind = process_kind(process.cmdline(), process.pid == self._root.pid)
            except psutil.Error:  # it has just ended
                continue
            self.largest[kind] = max(self.largest[kind], resident)
            total += resident
        self.total = max(self.total, total)


def process_kind(command: Sequence[str], is_root: bool) -> str:
    """What a process of an audit is, by its command line."""
    line = " ".join(command)
    return "winnow" if is_root else next((kind for mark, kind in KINDS.items() if mark in line), "other")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_cost")
    parser.add_argument("--quick", action="store_true", help="the digits with 2 seeds, within two minutes")
    quick = parser.parse_args().quick
    task, seeds = ("digits", 2) if quick else ("fashion_mnist", 5)
    with tempfile.TemporaryDirectory() as folder:
        values = measure_audit(task, seeds, Path(folder) / "run")
    rows = [line(task, "winnow audit", metric, value, **more) for metric, value, more in values]
    rows.append(measure_help(task))
    for row in rows:
        target = TARGETS.get(row["metric"])
        if target is not None and not quick:
            row |= {"target": target, "met": row["value"] <= target}
    path = write_results("audit_cost", rows)
    for row in rows:
        what = row.get("stage") or row.get("process") or ""
        print(f"{row['metric']:24s} {what:18s} {row['value']:16,.2f}")
    print(path)


def line(task: str, method: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {"task": task, "method": method, "metric": metric, "value": value, "n": 1} | more


def measure_audit(task: str, seeds: int, path: Path) -> list[tuple[str, float, dict[str, Any]]]:
    """Metrics of one audit in the new run directory `path`, each with what else its row says.

    Raises WinnowError, with the command's output, when it fails.
    """
    command: list[str] = [*WINNOW, "audit", f"configs/{task}.yaml", "--output", str(path)]
    command += ["--set", f"verification.seeds={seeds}"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sampler = MemorySampler(process.pid)
    output, _ = process.communicate()
    wall = time.perf_counter() - begin
    sampler.stop()
    if process.returncode not in (DONE, REFUSED):
        raise WinnowError(f"the audit ended with exit status {process.returncode}:\n{output}")
    seconds = {stage: entry["seconds"] for stage, entry in RunDirectory(path).record["stages"].items()}
    work = sum(seconds[stage] for stage in WORK)
    return [
        ("wall_seconds", wall, {}),
        ("share_outside_train_factors_attribute_verify", (wall - work) / wall, {}),
        ("load_average", os.getloadavg()[1], {}),
        *(("stage_seconds", value, {"stage": stage}) for stage, value in seconds.items()),
        ("start_and_end_seconds", wall - sum(seconds.values()), {}),
        ("largest_process_bytes", max(sampler.largest.values()), {}),
        *(("process_bytes", value, {"process": kind}) for kind, value in sorted(sampler.largest.items())),
        ("all_processes_bytes", sampler.total, {}),
    ]


def measure_help(task: str) -> dict[str, Any]:
    """Seconds that `winnow --help` takes: the median, least and largest of some runs."""
    seconds = []
    for _ in range(HELP_RUNS):
        begin = time.perf_counter()
        subprocess.run([*WINNOW, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - begin)
    row = line(task, "winnow --help", "help_seconds", statistics.median(seconds))
    return row | {"low": min(seconds), "high": max(seconds), "n": HELP_RUNS}


if __name__ == "__main__":
    try:
        main()
    except WinnowError as error:
        sys.exit(f"error: {error}")
