"""How faithful are the attributions: predicted against measured changes.

    python -m benchmarks.lds [--data DIR] [--tasks NAME,…] [--quick] [--truth-only] [--done]

The truth is retraining with rows left out: masks remove half of the rows, or a tenth, and each is retrained
several times (with as many epochs, so with fewer steps), few for all tasks before more. Retrainings are kept
under benchmarks/cache/lds/, so that the same command goes on after an interruption; `--done` sums up what is there.
Tasks whose data are not in DIR are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lds.predictions import Base, all_scores
from benchmarks.lds.summary import summarise
from benchmarks.lds.tasks import TASKS, Data, Removal, Task
from benchmarks.lds.truth import measure_truth
from benchmarks.results import HOME, write_results

ROUNDS = (2, 5, None)
QUICK = {0.5: Removal(20, 4), 0.1: Removal(20, 4)}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    found = read_tasks(arguments)
    if not arguments.done:
        for most in ROUNDS:
            for name, (task, data) in found.items():
                for removed in task.removals:
                    measure_truth(name, task, data, removed, most)
    if arguments.truth_only:
        return
    rows: list[dict[str, Any]] = []
    for name, (task, data) in found.items():
        bases = [all_scores(Base(name, task, data, seed)) for seed in range(task.base_models)]
        for removed in task.removals:
            rows += summarise(name, task, data, removed, bases)
        show(rows, name)
        write_results("lds", rows)


def read_tasks(arguments: argparse.Namespace) -> dict[str, tuple[Task, Data]]:
    """The tasks whose data are there."""
    found = {}
    for name in arguments.tasks:
        task = quick(TASKS[name]) if arguments.quick else TASKS[name]
        folder = arguments.data / (task.folder or "")
        if task.folder and not folder.exists():
            print(f"{name}: no data in {folder}")
            continue
        found[name] = task, task.read(folder)
    return found


def show(rows: list[dict[str, Any]], task: str) -> None:
    """A line per question and method."""
    for row in rows:
        if row["task"] == task and row["metric"] != "slope":
            asked = f"{row['query']}, {row['removed']:g} removed, truth {row['truth']}"
            ensembled = ", ensembled" if row.get("ensembled") else ""
            method = f"{row['method']} {row['metric']}" + (f" @{row['at']}{ensembled}" if "at" in row else "")
            print(f"{task}: {asked}: {method} {row['value']:.3f} ({row['low']:.3f} – {row['high']:.3f})")


def quick(task: Task) -> Task:
    return replace(task, removals=QUICK, base_models=1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Linear datamodeling score of the attributions.")
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of the original sets")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=None, help="NAME,…")
    parser.add_argument("--quick", action="store_true", help="digits alone, few retrainings")
    parser.add_argument("--truth-only", action="store_true", help="retrain and stop")
    parser.add_argument("--done", action="store_true", help="use the retrainings that are there")
    arguments = parser.parse_args()
    arguments.tasks = arguments.tasks or (["digits"] if arguments.quick else list(TASKS))
    for name in set(arguments.tasks) - set(TASKS):
        parser.error(f"there is no task {name!r}; use some of {', '.join(TASKS)}")
    return arguments


if __name__ == "__main__":
    main()
