"""How faithful are the attributions: predicted against measured changes.

    python -m benchmarks.lds [--data DIR] [--tasks NAME,…] [--quick] [--truth-only] [--done]
    python -m benchmarks.lds --same-order [--data DIR] [--tasks NAME,…]
    python -m benchmarks.lds --top [--data DIR] [--tasks NAME,…]
    python -m benchmarks.lds --write-banks [--data DIR] [--tasks NAME,…]

The truth is retraining with rows left out: masks remove half of the rows, or a tenth, and each is retrained
several times (with as many epochs, so with fewer steps), few for all tasks before more; and, for some tasks, what each
method takes for the 2 % most harmful rows is removed. Retrainings and scores are kept under benchmarks/cache/lds/, so
that the same command goes on after an interruption; scores are made anew when the code of the methods changed.
`--done` sums up what is there, without data, and says how many scores are of other code. Results of tasks that are not
asked for stay as they are. `--same-order` leaves rows out of the very trainings of the base models instead
(`same_order.py`), and other results stay. Tasks whose data are not in DIR are left out. `--quick` writes no results.
`--top` removes what each method takes for the 1 % that help a single query most (`top.py`), and other results stay.
`--write-banks` writes the retrainings that are kept as truth banks (`banks.py`), and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lds.banks import shipped_rows, write_bank
from benchmarks.lds.bases import Base, base_folder
from benchmarks.lds.harmful import RETRAININGS, measure_removals, removal_rows
from benchmarks.lds.predictions import Kept, all_scores, asked_in_all, kept_scores
from benchmarks.lds.questions import questions
from benchmarks.lds.rows import Data
from benchmarks.lds.same_order import TRUTH, measure_same_order, same_order_rows
from benchmarks.lds.summary import summarise
from benchmarks.lds.targets import targets
from benchmarks.lds.tasks import TASKS, Removal, Task
from benchmarks.lds.top import DIFFERENCE, METRIC, top_rows_of
from benchmarks.lds.truth import measure_truth
from benchmarks.results import HOME, commit, read_results, write_table

ACROSS = "across seeds"
ROUNDS = (2, 4, 8, None)
QUICK = {0.5: Removal(20, 4), 0.1: Removal(20, 4)}
Row = dict[str, Any]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    tasks = {name: quick(TASKS[name]) if arguments.quick else TASKS[name] for name in arguments.tasks}
    found = {} if arguments.done else read_tasks(tasks, arguments.data)
    if arguments.same_order or arguments.top:
        of_kind = top if arguments.top else same_order
        new = [row for name, (task, data) in found.items() for row in of_kind(name, task, data)]
        write(new, kinds={kind_of(row) for row in new})
        return
    if arguments.write_banks:
        for name, (task, data) in found.items():
            print(f"{name}: {write_bank(name, task, data) or 'no retrainings are kept'}")
        write_table("banks", shipped_rows(), module="lds")
        return
    for most in ROUNDS:
        for name, (task, data) in found.items():
            for removed in task.removals:
                measure_truth(name, task, data, removed, most)
    if arguments.truth_only:
        return
    for name, (task, data) in found.items():
        bases = [all_scores(Base(name, task, data, seed)) for seed in range(task.base_models)]
        if name in RETRAININGS and not arguments.quick:
            measure_removals(name, task, data, bases)
    rows = {name: rows_of(name, tasks[name]) for name in (tasks if arguments.done else found)}
    if not arguments.quick:
        new = [row for some in rows.values() for row in some]
        write(new, kinds={ACROSS})


def top(name: str, task: Task, data: Data) -> list[Row]:
    """A task's results without the top 1 % for single queries; printed, a line each."""
    rows = top_rows_of(Base(name, task, data, 0))
    for row in rows:
        print(line(row))
    return rows


def same_order(name: str, task: Task, data: Data) -> list[Row]:
    """A task's results in the order of the base models; printed, a line each."""
    bases = [Base(name, task, data, seed) for seed in range(task.base_models)]
    for base in bases:
        measure_same_order(base)
    rows = same_order_rows(bases)
    for row in rows:
        print(line(row))
    return rows


def read_tasks(tasks: dict[str, Task], folder: Path) -> dict[str, tuple[Task, Data]]:
    """The tasks whose data are there."""
    found = {}
    for name, task in tasks.items():
        own = folder / (task.folder or "")
        if task.folder and not own.exists():
            print(f"{name}: no data in {own}")
            continue
        found[name] = task, task.read(own)
    return found


def rows_of(name: str, task: Task) -> list[Row]:
    """A task's results, from retrainings and scores that are kept; printed, a line each."""
    kept = whole_bases(name, task)
    if not kept or kept[0].stages is None:
        return []
    others = sum(each.others for each in kept)
    if others:
        print(f"{name}: {others} scores are of other code; run without --done to make them anew")
    bases = [each.scores for each in kept]
    asked = list(questions(name, task, kept[0].stages, bases))
    rows = [row for question in asked for row in summarise(question)] + targets(asked)
    if name in RETRAININGS:
        rows += removal_rows(name, task, bases)
    for row in rows:
        if row["metric"] != "slope" or "target" in row:
            print(line(row))
    return rows


def whole_bases(name: str, task: Task) -> list[Kept]:
    """Scores of the base models that were asked about all methods, up to the first that was not."""
    found = []
    for seed in range(task.base_models):
        kept = kept_scores(base_folder(name, task, seed))
        if kept.asked < asked_in_all(task, seed):
            break
        found.append(kept)
    return found


def write(new: Sequence[Row], kinds: set[str]) -> None:
    """Write results. Earlier rows stay, but for those of the same tasks and kinds.

    New rows say which commit made them, since the file has rows of several.
    """
    found, tasks = read_results("lds"), {row["task"] for row in new}
    stay = [
        row
        for row in (found["rows"] if found else [])
        if row["task"] in TASKS and (row["task"] not in tasks or kind_of(row) not in kinds)
    ]
    dated = [row | {"commit": f"g{commit()}"} for row in new]
    write_table("lds", sorted([*stay, *dated], key=lambda row: list(TASKS).index(row["task"])))


def kind_of(row: Row) -> str:
    """Which part of the benchmark a row is of."""
    if row["metric"] in (METRIC, DIFFERENCE):
        return METRIC
    return TRUTH if row["truth"] == TRUTH else ACROSS


def line(row: Row) -> str:
    """What a row says."""
    asked = ", ".join([row.get("query", "most harmful"), f"{row['removed']:g} removed, truth {row['truth']}"])
    method = f"{row['method']} @{row['at']}" if "at" in row else row["method"]
    method += f" − {row['against']}" if "against" in row else ""
    method += ", ensembled" if row.get("ensembled") else ""
    interval = f" ({row['low']:.3f} – {row['high']:.3f})" if "low" in row else ""
    verdict = (
        f" {row['sense']} {row['target']}: {'met' if row['met'] else 'MISSED'}" if "target" in row else ""
    )
    return f"{row['task']}: {asked}: {method}: {row['metric']} {row['value']:.3f}{interval}{verdict}"


def quick(task: Task) -> Task:
    return replace(task, removals=QUICK, base_models=1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Linear datamodeling score of the attributions.")
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of the original sets")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=None, help="NAME,…")
    parser.add_argument(
        "--quick", action="store_true", help="digits alone, few retrainings, no results written"
    )
    parser.add_argument("--truth-only", action="store_true", help="retrain and stop")
    parser.add_argument("--same-order", action="store_true", help="the base models' own order, alone")
    parser.add_argument("--top", action="store_true", help="remove the top 1 % of single queries, alone")
    parser.add_argument("--write-banks", action="store_true", help="write truth banks of what is there")
    parser.add_argument("--done", action="store_true", help="use what is there")
    arguments = parser.parse_args()
    arguments.tasks = arguments.tasks or (["digits"] if arguments.quick else list(TASKS))
    for name in set(arguments.tasks) - set(TASKS):
        parser.error(f"there is no task {name!r}; use some of {', '.join(TASKS)}")
    return arguments


if __name__ == "__main__":
    main()
