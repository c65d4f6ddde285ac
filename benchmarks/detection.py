"""How well are wrong labels found: Winnow, its signals one by one, and its peers on the same rows and models.

    python -m benchmarks.detection [--data DIR] [--tasks NAME …] [--seeds N] [--quick] [--done]

A configuration is a task, a kind and rate of planted noise and a seed, which draws the rows, the noise and the
trainings. What methods say about its rows is kept under benchmarks/cache/detection/ as soon as it is done, so
that the same command goes on after an interruption; `--done` sums up what is there. Tasks whose data are not in
DIR are left out.

- winnow: the pipeline's stages up to its decisions, with clean validation rows, without the search for backdoors.
- winnow_no_halves, winnow_no_validation: audits without the trainings on halves, and without validation rows.
- each signal and score of the audit as a ranking of its own; without_SIGNAL: the other signals, with their weights.
- cleanlab, cleanlab_early, aum, confidence_agreement, knn, knn_shapley_K: benchmarks/detection_peers.py.

Then, after cleaning, the same model is trained anew on what is left and measured on holdout rows with true labels;
under uniform noise of 20 % also without the rows that a method thinks best of (benchmarks/detection_drop.py).
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.detection_audit import (
    VARIANTS,
    Inline,
    audit,
    cost,
    judged_by_winnow,
    single_rankings,
    variant,
)
from benchmarks.detection_drop import NOISE, RATE, accuracies
from benchmarks.detection_findings import load_findings, save_findings
from benchmarks.detection_noise import plant
from benchmarks.detection_peers import DEFAULT, FOLDS, peers
from benchmarks.detection_summary import Measured, show, summarise
from benchmarks.detection_tasks import GIVEN, TASKS, draw_roles, read_rows, task_config
from benchmarks.results import CACHE, HOME, write_results
from pipeline.config import AuditConfig
from pipeline.data.prepare import prepare
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, write_json, write_text
from pipeline.training.batches import Selection
from pipeline.verification.retrain import train_and_measure

SEEDS = 2
RETRAININGS = (1001, 1002)
PLANTED = (
    ("uniform", 0.1),
    ("none", 0.0),
    ("uniform", 0.2),
    ("pairs", 0.2),
    ("features", 0.2),
    ("uniform", 0.05),
    ("uniform", 0.4),
)
WRONG_TARGETS = (("targets", 0.1), ("none", 0.0), ("targets", 0.2))
QUICK = {"tasks": ("digits", "breast_cancer"), "noises": ("uniform", "none")}


@dataclass(frozen=True)
class Configuration:
    """rate: share of the train rows that get a wrong label; 0 where it is not chosen (none, human labels)."""

    task: str
    noise: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """DATASET/NOISE/RATE."""
        return f"{self.task}/{self.noise}/{self.rate:g}"

    @property
    def folder(self) -> Path:
        return CACHE / "detection" / f"{self.task}-{self.noise}-{self.rate:g}-{self.seed}"

    @property
    def findings(self) -> Path:
        """What methods say about the rows."""
        return self.folder / "findings.safetensors"

    @property
    def facts(self) -> Path:
        """Written after the findings: they are complete when it is there."""
        return self.folder / "facts.json"

    @property
    def holdout(self) -> Path:
        """What retraining on cleaned rows gave."""
        return self.folder / "holdout.json"

    @property
    def removal(self) -> Path:
        """What retraining without valuable rows gave."""
        return self.folder / "removal.json"

    @property
    def removes(self) -> bool:
        return (self.noise, self.rate, self.seed) == (NOISE, RATE, 0)


def plan(tasks: Sequence[str], seeds: int, quick: bool) -> list[Configuration]:
    """All configurations, the first seed of all tasks before the second."""
    found = []
    for seed in range(seeds):
        for place in range(len(PLANTED) + 2):
            for task in tasks:
                human = tuple((f"human_{name}", 0.0) for name in TASKS[task].human)
                noises = WRONG_TARGETS if TASKS[task].regression else PLANTED + human
                if place < len(noises) and not (quick and noises[place][0] not in QUICK["noises"]):
                    found.append(Configuration(task, *noises[place], seed))
    return found


def examine(configuration: Configuration, data: Path) -> None:
    """What all methods say about the rows of a configuration; the run directories are removed again."""
    begin = time.perf_counter()
    folder = configuration.folder
    shutil.rmtree(folder, ignore_errors=True)
    config, wrong = write_data(configuration, data)
    context = audit(config, folder / "winnow")
    findings = [judged_by_winnow("winnow", context), *single_rankings(context), *peers(context)]
    costs = {"winnow": cost(context), "cleanlab": FOLDS - 1.0, "cleanlab_early": FOLDS - 1.0, "aum": 0.0}
    for name in VARIANTS:
        other = variant(context, name)
        findings.append(judged_by_winnow(name, other))
        costs[name] = cost(other)
    save_findings(configuration.findings, findings, wrong)
    facts = audit_facts(context) | {"trainings_beyond": costs, "seconds": time.perf_counter() - begin}
    for part in ("data", "winnow", *VARIANTS):
        shutil.rmtree(folder / part)
    write_json(configuration.facts, facts)


def retrain(configuration: Configuration, data: Path) -> None:
    """Accuracy (regression: R²) on the holdout as given, and after removing what is flagged; mean over seeds."""
    flags = {method: finding.flags for method, finding in load_findings(configuration.findings)[0].items()}
    arms = {"as_given": None, "winnow": flags["winnow"]["remove"], "cleanlab": flags["cleanlab"][DEFAULT]}
    found = {}
    with prepared(configuration, data) as run_path:
        for arm, removed in arms.items():
            selection = Selection(keep=None if removed is None else ~removed)
            scores = [train_and_measure(run_path, selection, seed)["tail_score"] for seed in RETRAININGS]
            found[arm] = float(np.mean([score.double().mean() for score in scores]))
    write_json(configuration.holdout, found)


def remove_valuable(configuration: Configuration, data: Path) -> None:
    with prepared(configuration, data) as run_path:
        found = accuracies(run_path, load_findings(configuration.findings)[0])
    write_json(configuration.removal, found)


@contextmanager
def prepared(configuration: Configuration, data: Path) -> Iterator[Path]:
    """A run directory with the configuration's rows encoded, removed again."""
    config, _ = write_data(configuration, data)
    run = RunDirectory(configuration.folder / "retrained")
    write_text(run / "config.yaml", config.to_yaml())
    prepare(AuditContext(config, run, Inline(config.compute)))
    yield run.path
    for part in ("data", "retrained"):
        shutil.rmtree(configuration.folder / part)


def write_data(configuration: Configuration, data: Path) -> tuple[AuditConfig, np.ndarray]:
    """The rows of all roles as files; the audit of them, and where the train labels are wrong, bool `[rows]`."""
    task, seed, folder = configuration.task, configuration.seed, configuration.folder / "data"
    roles = draw_roles(task, read_rows(task, data, CACHE / "detection" / "rows"), seed)
    train = roles["train"]
    given, wrong = plant(task, train, configuration.noise, configuration.rate, seed)
    roles["train"] = train.set_column(train.schema.get_field_index(GIVEN), GIVEN, given)
    write_roles(folder, roles)
    return task_config(task, folder, seed), wrong


def write_roles(folder: Path, roles: dict[str, pa.Table]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for role, table in roles.items():
        pq.write_table(table, folder / f"{role}.parquet")


def audit_facts(context: AuditContext) -> dict[str, Any]:
    """The estimated share of wrong labels (None: no estimate) and the early window."""
    facts = context.run.facts("detect")
    noise = facts["estimated_noise"]
    return {
        "estimated_noise": None if noise is None else noise["value"],
        "early_epoch": facts["early_epoch"],
        "epochs": context.config.training.epochs,
    }


def work_through(planned: Sequence[Configuration], data: Path) -> None:
    """Do what is not done: the findings of all configurations first, then the retrainings."""
    for each in planned:
        if not each.facts.exists():
            examine(each, data)
            print(f"{each.name}, seed {each.seed}: {read_json(each.facts)['seconds']:.0f} s", flush=True)
    for each in planned:
        if each.noise != "none" and not each.holdout.exists():
            retrain(each, data)
            print(f"{each.name}, seed {each.seed}: {read_json(each.holdout)}", flush=True)
    for each in planned:
        if each.removes and not each.removal.exists():
            remove_valuable(each, data)
            print(f"{each.name}, seed {each.seed}: without valuable rows", flush=True)


def measured(configurations: Sequence[Configuration]) -> list[Measured]:
    """What is known of the configurations that are done."""
    found = []
    for each in configurations:
        if each.facts.exists():
            findings, wrong = load_findings(each.findings)
            holdout, removal = (
                read_json(path) if path.exists() else None for path in (each.holdout, each.removal)
            )
            task = TASKS[each.task]
            key = (each.task, each.noise, each.rate, each.seed)
            facts = read_json(each.facts)
            found.append(Measured(*key, task.regression, findings, wrong, facts, holdout, removal))
    return found


def available(names: Sequence[str], data: Path) -> list[str]:
    """The tasks whose data are there; says which are not."""
    found = []
    for name in names:
        folder = TASKS[name].folder
        if folder is None or (data / folder).is_dir():
            found.append(name)
        else:
            print(
                f"{name}: left out, {data / folder} is not there (docs/measurements/detection.md says what it holds)"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection")
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of the original sets")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"by default {SEEDS}")
    parser.add_argument("--quick", action="store_true", help="two small tasks, one seed, within minutes")
    parser.add_argument("--done", action="store_true", help="sum up what is done, and do no more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks, seeds = (QUICK["tasks"], 1) if arguments.quick else (arguments.tasks, arguments.seeds)
    planned = plan(tasks if arguments.done else available(tasks, arguments.data), seeds, arguments.quick)
    if not arguments.done:
        for seed in range(seeds):
            work_through([each for each in planned if each.seed == seed], arguments.data)
    done = measured(planned)
    print(f"{len(done)} of {len(planned)} configurations are in")
    if done:
        rows = summarise(done, len(planned))
        show(rows)
        print(write_results("detection", rows))


if __name__ == "__main__":
    main()
