"""The null tests: how often is a change that helps nothing called `improved`? At most 5 % of the draws.

    python -m benchmarks.null_test [--task table|text|pixels] [--quick] [--data DIR]

Two kinds of proposals pose as the audit's own, of the size and classes of its real flags: `random` ones, each arm
drawn as its own control is drawn, and right rows that the out-of-sample judges contradict most (`contradicted`). Of
each there is a pool of 30, and each is removed, relabelled and done half by half, once with every seed. A draw from
the pool is one experiment: one proposal, whose arm is chosen as verification chooses, with controls from the other
random ones. The verdict is the one of an audit, with holdout labels declared clean and, where the audit has judges of
the holdout rows, as noisy as the train labels.

Retrainings are kept under benchmarks/cache/null_test/, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import binomtest

import pipeline
from benchmarks.results import CACHE, write_results
from pipeline.config import AuditConfig, validate
from pipeline.errors import InputError
from pipeline.runs.tensors import save_tensors
from pipeline.seeds import random_state
from pipeline.text.arms import AS_GIVEN, RANDOM_OF
from pipeline.text.decisions import Decision
from pipeline.training.batches import Selection
from pipeline.training.setup import class_weights
from pipeline.verification.arms import Decisions, arm_rows, random_rows, read_decisions
from pipeline.verification.choice import choose
from pipeline.verification.cross_fitting import both_evidences
from pipeline.verification.judgement import Retrained, judge
from pipeline.verification.measures import Evidence, read_evidence
from pipeline.verification.results import ArmResult, RoleResult, read_results
from pipeline.verification.retrain import train_and_measure
from pipeline.workers.cluster import Workers
from pipeline.workers.worker import run_config, run_data

SAMPLES = Path(__file__).parents[1] / "data_samples"
ARMS = ("removed", "relabelled", "mixed")
RANDOM, CONTRADICTED = "random", "contradicted"
KINDS = (RANDOM, CONTRADICTED)
ROWS = {"train": 1500, "validation": 400, "holdout": 600}
NOISE = 0.15
"""The share of wrong labels in a table, nearly all of one of five sources."""


@dataclass(frozen=True)
class Plan:
    """How large a test is: retrainings are 2 kinds × 3 arms × `proposals` × `seeds`, and as given."""

    proposals: int = 30
    seeds: int = 4
    seeds_per_verdict: int = 3
    draws: int = 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.null_test")
    parser.add_argument("--task", choices=("table", "text", "pixels"), action="append")
    parser.add_argument(
        "--quick", action="store_true", help="a pool of 4, the table alone, within two minutes"
    )
    parser.add_argument(
        "--data", type=Path, default=SAMPLES, help="holds digits/ and sms_spam/, each with its roles"
    )
    arguments = parser.parse_args()
    plan = Plan(4, 2, 2, 20) if arguments.quick else Plan()
    rows: list[dict[str, Any]] = []
    for task in ["table"] if arguments.quick else arguments.task or ["table", "text", "pixels"]:
        run_path = own_audit(task, arguments.data)
        pool = retrain_pool(run_path, plan)
        rows += [row for kind in KINDS for row in summarise(task, kind, run_path, pool, plan)]
    for row in rows:
        print(f"{row['task']:8s} {row['method']:32s} {row['metric']:8s} {row['value']:.3f}")
    print(write_results("null_test", rows))


def own_audit(task: str, data: Path) -> Path:
    """A finished audit, without verification, in the cache."""
    config = task_config(task, data)
    path = CACHE / "null_test" / f"{task}-{config.hash()}"
    pipeline.audit(config, path)
    return path


def task_config(task: str, data: Path) -> AuditConfig:
    tree: dict[str, Any] = {
        "name": f"null-test-{task}",
        "verification": {"seeds": 0},
        "training": {"epochs": 8, "batch_size": 64, "checkpoints": 3},
        "model": {"name": "mlp", "hidden": [32]},
    }
    if task == "table":
        paths = write_table(CACHE / "null_test" / "table")
        features = dict.fromkeys("abcdef", "numeric") | {"source": "category"}
        tree["data"] = paths | {"features": features, "label": "label", "group": ["source"]}
    elif task == "pixels":
        roles = {role: [str(data / "digits" / role)] for role in ROWS}
        tree["data"] = roles | {"features": {"image": "image"}, "label": "label", "key": "index"}
    else:
        roles = {role: [str(data / "sms_spam" / role)] for role in ROWS}
        tree["data"] = roles | {"features": {"text": "text"}, "label": "label", "key": "index"}
        tree["model"] = {"name": "bag_of_embeddings", "embedding": 16}
    return validate(tree, "benchmarks.null_test")


def write_table(folder: Path) -> dict[str, list[str]]:
    """Three classes of overlapping blobs, with labels that one of five sources mostly gets wrong, in every role."""
    folder.mkdir(parents=True, exist_ok=True)
    random = random_state("null test table")
    centres = 1.2 * random.standard_normal((3, 6))
    paths: dict[str, list[str]] = {}
    for role, rows in ROWS.items():
        truth, source = random.randint(0, 3, rows), random.randint(0, 5, rows)
        x = centres[truth] + random.standard_normal((rows, 6))
        wrong = random.random_sample(rows) < np.where(source == 0, 4 * NOISE, NOISE / 4)
        label = np.where(wrong, (truth + random.randint(1, 3, rows)) % 3, truth)
        columns: dict[str, Any] = dict(zip("abcdef", x.T))
        columns |= {"source": [f"s{each}" for each in source], "label": label, "truth": truth}
        path = folder / f"{role}.parquet"
        pq.write_table(pa.table(columns), path)
        paths[role] = [str(path)]
    return paths


def proposal(run_path: Path, kind: str, number: int) -> Decisions:
    """Proposal `number` of its kind, of as many rows of every class as the audit flagged, half of them to relabel.

    `contradicted`: drawn from the twice as many rows that the judges contradict most, of those that were not flagged.
    Every one would get the label that the judges predict. `random`: the flagged rows themselves, whose arms are never
    trained, but the random controls that are drawn for them.
    """
    decisions = read_decisions(run_path)
    chosen = real_flags(run_path)
    if kind == CONTRADICTED:
        allowed = most_contradicted(run_path, decisions, chosen)
        chosen = random_rows(decisions.strata, chosen, allowed, "null test contradicted", number)
    half = random_state("null test half", number).random_sample(len(chosen)) < 0.5
    return replace(
        decisions,
        removed=chosen & half,
        relabelled=chosen & ~half,
        has_suggestion=chosen,
        by_person=np.zeros(len(chosen), dtype=bool),
        suggested=decisions.judged,
    )


def arm_of(kind: str, arm: str) -> str:
    """What stands in the pool for a proposal's arm: a random one is drawn as its control is."""
    return RANDOM_OF + arm if kind == RANDOM else arm


def real_flags(run_path: Path) -> np.ndarray:
    """bool `[rows]`: what the audit would change, else what it would have reviewed.

    Raises InputError where that is nothing.
    """
    decisions = read_decisions(run_path)
    if decisions.flagged.any():
        return decisions.flagged
    words = pq.read_table(run_path / "rows.parquet", columns=["decision"])["decision"].to_pylist()
    found = np.array([word == Decision.REVIEW.word for word in words[: len(decisions.strata)]])
    if not found.any():
        raise InputError(f"{run_path}: the audit flags nothing", "Give data with more wrong labels.")
    return found


def most_contradicted(run_path: Path, decisions: Decisions, flagged: np.ndarray) -> np.ndarray:
    """bool `[rows]`: of every class the most suspicious rows without a flag, twice as many as there are flags."""
    table = pq.read_table(run_path / "rows.parquet", columns=["suspicion"])
    suspicion = table["suspicion"].to_numpy()[: len(flagged)]
    found = np.zeros(len(flagged), dtype=bool)
    for label in np.unique(decisions.strata):
        members = np.flatnonzero((decisions.strata == label) & ~flagged)
        wanted = 2 * int((flagged & (decisions.strata == label)).sum())
        found[members[np.argsort(-suspicion[members], kind="stable")[:wanted]]] = True
    return found


def retrain_one(run_path: Path, path: Path, kind: str, number: int, arm: str, seed: int) -> None:
    """Retrain an arm of a proposal (a task for a worker)."""
    kept, labels = (
        (None, None) if arm == AS_GIVEN else arm_rows(proposal(run_path, kind, number), arm, 1000 + number)
    )
    weights = class_weights(run_config(run_path).training, run_data(run_path))
    torch.set_num_threads(1)
    save_tensors(path, train_and_measure(run_path, Selection(kept, labels, weights), seed))


Pool = dict[tuple[str, int, str], ArmResult]
"""(kind, number, arm) → its retrainings, over all seeds of the pool."""


def retrain_pool(run_path: Path, plan: Plan) -> Pool:
    names = [(RANDOM, 0, AS_GIVEN)]
    names += [
        (kind, number, arm_of(kind, arm))
        for kind in KINDS
        for number in range(plan.proposals)
        for arm in ARMS
    ]
    folder = CACHE / "null_test" / f"pool-{run_path.name}"
    paths = {
        name: [folder / f"{name[0]}-{name[1]}-{name[2]}-{seed}.safetensors" for seed in range(plan.seeds)]
        for name in names
    }
    tasks = [
        (run_path, path, *name, seed)
        for name, of_name in paths.items()
        for seed, path in enumerate(of_name)
        if not path.exists()
    ]
    print(f"{len(tasks)} of {len(names) * plan.seeds} retrainings to do", flush=True)
    with Workers(run_config(run_path).compute) as workers:
        workers.run(
            retrain_one, tasks, [f"{kind} {number} {arm}, {seed}" for *_, kind, number, arm, seed in tasks]
        )
    return {name: read_results(of_name) for name, of_name in paths.items()}


def of_seeds(results: list[ArmResult], seeds: np.ndarray) -> ArmResult:
    """The retrainings of some seeds; with several results, of one each, in their order."""

    def role(name: str) -> RoleResult:
        parts = [getattr(result, name) for result in (results * len(seeds))[: len(seeds)]]

        def picked(field: str) -> Any:
            values = [getattr(part, field) for part in parts]
            return None if values[0] is None else np.stack([v[s] for v, s in zip(values, seeds)])

        return RoleResult(picked("scores"), picked("losses"), picked("top"), picked("log_probabilities"))

    holdout = role("holdout")
    validation = None if results[0].validation is None else role("validation")
    return ArmResult(results[0].rows, holdout, holdout.scores, validation)


def verdicts(
    pool: Pool, kind: str, holdout: Evidence, validation: Evidence, plan: Plan
) -> list[tuple[int, str]]:
    """One experiment per draw: the proposal's number and the verdict."""
    random, found = random_state("null test draws"), []
    for _ in range(plan.draws):
        seeds = random.choice(plan.seeds, plan.seeds_per_verdict, replace=False)
        number = random.randint(plan.proposals)
        results = {AS_GIVEN: of_seeds([pool[RANDOM, 0, AS_GIVEN]], seeds)}
        results |= {arm: of_seeds([pool[kind, number, arm_of(kind, arm)]], seeds) for arm in ARMS}
        choice = choose(results, validation, holdout, number)
        others = [each for each in range(plan.proposals) if each != number]
        drawn = random.choice(others, len(seeds))
        for arm in sorted({choice.arm, *(choice.crossed or {}).values()}):
            controls = [pool[RANDOM, int(each), RANDOM_OF + arm] for each in drawn]
            results[RANDOM_OF + arm] = of_seeds(controls, seeds)
        known = holdout if choice.crossed is None else both_evidences(validation, holdout)
        found.append((number, judge(Retrained(results, choice), known)["verdict"]))
    return found


def summarise(task: str, kind: str, run_path: Path, pool: Pool, plan: Plan) -> list[dict[str, Any]]:
    evidence = {role: read_evidence(run_path, role) for role in ("holdout", "validation")}
    ways = {"clean": {role: replace(each, clean=True) for role, each in evidence.items()}}
    if evidence["holdout"].posterior:
        ways["as noisy as train"] = {role: replace(each, clean=False) for role, each in evidence.items()}
    rows = []
    for labels, known in ways.items():
        found = verdicts(pool, kind, known["holdout"], known["validation"], plan)
        size = {"n": len(found), "proposals": plan.proposals, "flagged": int(real_flags(run_path).sum())}
        for word in ("improved", "worse"):
            value = share([number for number, said in found if said == word], found, plan.proposals)
            rows.append({"task": task, "method": f"{kind}, labels {labels}", "metric": word} | value | size)
    return rows


def share(hits: list[int], found: list[tuple[int, str]], proposals: int) -> dict[str, float]:
    """A share of the draws with its 95 % interval by drawing proposals anew, since draws of one share retrainings.

    Without a hit, proposals drawn anew have none either: the interval is then the exact one of no proposal of all.
    """
    if not hits:
        return {"value": 0.0, "low": 0.0, "high": float(binomtest(0, proposals).proportion_ci().high)}
    drawn = np.bincount([number for number, _ in found], minlength=proposals)
    hit, random = np.bincount(hits, minlength=proposals), random_state("null test bootstrap")
    places = random.randint(0, proposals, (2000, proposals))
    shares = hit[places].sum(1) / np.maximum(1, drawn[places].sum(1))
    low, high = np.quantile(shares, [0.025, 0.975])
    return {"value": len(hits) / len(found), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
