"""The null test: how often is a random removal that poses as the cleaned arm called `improved`? At most 5 %.

    python -m benchmarks.null_test [--quick] [--run RUN]

On the data of an audit (its own, or a finished run's), flags are permuted within classes: as many rows of
every class go as the audit removed, but random ones. A pool of such removals is retrained with several
seeds each, once, and every draw from the pool is one experiment: one removal poses as the cleaned arm,
another removal per seed is the control, and the verdict is that of `verify`. Retrainings are kept under
benchmarks/cache/, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

import pipeline
from benchmarks.results import CACHE, write_results
from pipeline.compute.cluster import Workers
from pipeline.compute.worker import run_config, run_data
from pipeline.config import AuditConfig, digest, validate
from pipeline.errors import InputError
from pipeline.training.batches import Selection
from pipeline.training.setup import class_weights
from pipeline.training.state import save_tensors
from pipeline.verification.arms import random_removal, read_decisions
from pipeline.verification.results import read_results
from pipeline.verification.retrain import train_and_measure
from pipeline.verification.statistics import CONTROLS, difference_interval, verdict

SAMPLES = Path(__file__).parents[1] / "data_samples"
SEEDS_PER_VERDICT = 5


@dataclass(frozen=True)
class Plan:
    """How large the test is; `removals` × `seeds` retrainings, and `seeds` more on all rows."""

    task: str
    removals: int
    seeds: int
    draws: int


FULL = Plan("fashion_mnist", removals=8, seeds=7, draws=200)
QUICK = Plan("digits", removals=6, seeds=8, draws=200)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.null_test")
    parser.add_argument("--quick", action="store_true", help="digits and a small pool, within two minutes")
    parser.add_argument("--data", type=Path, default=SAMPLES, help="holds TASK/{train,validation,holdout}")
    parser.add_argument("--run", type=Path, help="a finished run of the same sample, instead of an own audit")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    run_path = arguments.run or own_audit(plan.task, arguments.data)
    scores = pool_scores(run_path, plan)
    rows = summarise(plan, verdicts(scores, plan.draws), int(read_decisions(run_path).removed.sum()))
    path = write_results("null_test", rows)
    for row in rows:
        print(f"{row['metric']:28s} {row['value']:.3f}  [{row['low']:.3f}, {row['high']:.3f}]")
    print(path)


def own_audit(task: str, data: Path) -> Path:
    """A finished audit of a sample, without verification, in the cache."""
    config = task_config(task, data)
    path = CACHE / "null_test" / f"{task}-{config.hash()}"
    pipeline.audit(config, path)
    return path


def task_config(task: str, data: Path) -> AuditConfig:
    folders = {role: [str(data / task / role)] for role in ("train", "validation", "holdout")}
    columns = {"features": {"image": "image"}, "label": "label", "key": "index", "validation_is_clean": True}
    tree = {"name": f"null-test-{task}", "data": folders | columns, "verification": {"seeds": 0}}
    return validate(tree, "benchmarks.null_test")


def retrain_random(run_path: Path, path: Path, removal: int | None, seed: int) -> None:
    """Retrain without random removal number `removal`, or on all rows for None (a task for a worker)."""
    decisions = read_decisions(run_path)
    keep = None if removal is None else random_removal(decisions.strata, decisions.removed, 10_000 + removal)
    weights = class_weights(run_config(run_path).training, run_data(run_path))
    save_tensors(path, train_and_measure(run_path, Selection(keep=keep, class_weights=weights), seed))


def pool_scores(run_path: Path, plan: Plan) -> np.ndarray:
    """Retrain the pool; its scores, `[removals + 1, seeds, holdout rows]`, the first of them on all rows.

    Raises InputError when the run removes nothing or has no holdout.
    """
    decisions, config, data = read_decisions(run_path), run_config(run_path), run_data(run_path)
    if not decisions.removed.any() or data.count("holdout") < 2:
        raise InputError(f"{run_path}: removes nothing, or has no holdout", "Give another --run.")
    tree = config.as_dict()
    counts = np.bincount(decisions.strata[decisions.removed]).tolist()
    key = digest([tree["data"], tree["model"], tree["training"], counts])
    arms = [None, *range(plan.removals)]
    paths = [
        [CACHE / "null_test" / f"pool-{key}" / f"{arm}-{seed}.safetensors" for seed in range(plan.seeds)]
        for arm in arms
    ]
    tasks = [
        (run_path, path, arm, seed)
        for arm, of_arm in zip(arms, paths)
        for seed, path in enumerate(of_arm)
        if not path.exists()
    ]
    print(f"{len(tasks)} of {len(arms) * plan.seeds} retrainings to do")
    with Workers(config.compute) as workers:
        workers.run(retrain_random, tasks, [f"removal {arm}, seed {seed}" for _, _, arm, seed in tasks])
    return np.stack([read_results(of_arm).scores for of_arm in paths])


def verdicts(scores: np.ndarray, draws: int) -> list[dict[str, Any]]:
    """One experiment per draw: `verdict`, and whether each control alone was beaten."""
    random = np.random.RandomState(0)
    removals, seeds = len(scores) - 1, scores.shape[1]
    found = []
    for _ in range(draws):
        chosen = random.choice(seeds, SEEDS_PER_VERDICT, replace=False)
        posing = random.randint(1, removals + 1)
        others = [removal for removal in range(1, removals + 1) if removal != posing]
        controls = (scores[0, chosen], scores[random.choice(others, SEEDS_PER_VERDICT), chosen])
        differences = {
            name: {"metric": difference_interval(scores[posing, chosen] - control).as_json()}
            for name, control in zip(CONTROLS, controls)
        }
        beaten = {name: differences[name]["metric"]["low"] > 0 for name in CONTROLS}
        found.append({"verdict": verdict(differences, higher_is_better=True)} | beaten)
    return found


def summarise(plan: Plan, found: list[dict[str, Any]], removed: int) -> list[dict[str, Any]]:
    """Shares of the draws; the interval takes draws as independent, though they share retrainings."""
    as_given, random_removal = CONTROLS
    counts = {
        "false_improved": sum(each["verdict"] == "improved" for each in found),
        "worse": sum(each["verdict"] == "worse" for each in found),
        "above_as_given_alone": sum(each[as_given] for each in found),
        "above_random_removal_alone": sum(each[random_removal] for each in found),
    }
    size = {"n": len(found), "removed": removed, "removals": plan.removals, "seeds": plan.seeds}
    common = {"task": plan.task, "method": "winnow"}
    return [common | {"metric": metric} | share(count, len(found)) | size for metric, count in counts.items()]


def share(count: int, n: int) -> dict[str, float]:
    """A share with its 95 % Clopper–Pearson interval."""
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return {"value": count / n, "low": low, "high": high}


if __name__ == "__main__":
    main()
