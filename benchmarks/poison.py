"""Backdoors: how many are found, in which rows, and is the attack gone after cleaning.

    python -m benchmarks.poison [--quick] [--data DIR]

Every case is a training on a poisoned sample (or a clean one: false alarms). What was measured of a case is
kept under benchmarks/cache/, so that the same command goes on after an interruption. `--done` summarises what
is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load_file
from scipy.stats import beta

from benchmarks.inline import Inline
from benchmarks.poison_attacks import Case, write_case
from benchmarks.poison_peers import flags
from benchmarks.poison_variants import BREAST_CANCER
from benchmarks.results import CACHE, HOME, write_results
from pipeline.config import AuditConfig, Compute, validate
from pipeline.data.prepare import prepare
from pipeline.detection.backdoor.backdoors import find_backdoors
from pipeline.detection.backdoor.search_data import Predictor, final_predictor, material_path
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, write_json, write_text
from pipeline.training.batches import Selection
from pipeline.training.loop import train
from pipeline.training.main_run import train_main
from pipeline.training.recipe import make_recipe
from pipeline.training.setup import deterministic, set_up
from pipeline.workers.cluster import Workers
from pipeline.workers.worker import run_config, run_data

WORKING = 0.5
"""An attack works when at least this share of triggered rows becomes the target."""
RATES = (0.01, 0.1, 0.03, 0.005)
SEEDS = 2
ATTACKS = {
    "fashion_mnist": ("patch", "blended"),
    "cifar10": ("patch", "blended"),
    "sst2": ("word", "phrase"),
    "sms_spam": ("word", "phrase"),
    "adult": ("columns",),
}
VARIANTS = {
    "adult/range": (0.01, 0.03),
    "adult/clean-columns": (0.03,),
    "breast_cancer/range": (0.1,),
    "cifar10/tinted": (0.03,),
    "fashion_mnist/anywhere": (0.03,),
    "fashion_mnist/blurred": (0.03,),
    "fashion_mnist/bright": (0.03,),
    "fashion_mnist/clean-faded-patch": (0.08,),
    "fashion_mnist/clean-patch": (0.08,),
    "fashion_mnist/two-patches": (0.03,),
    "sms_spam/clean-word": (0.08,),
    "sst2/clean-word": (0.03,),
    "sst2/punctuation": (0.03,),
}
"""Attacks that are summarised apart, and their rates."""
VARIANT_SEEDS = {"adult/range": 4, "fashion_mnist/anywhere": 1}
CLEAN_TASKS = ("fashion_mnist", "cifar10", "sst2", "sms_spam", "trec", "adult")
CLEAN_SEEDS = 10
SLOWEST = "cifar10"
ADULT = {
    "numeric": "age fnlwgt education_num capital_gain capital_loss hours_per_week",
    "category": "workclass education marital_status occupation relationship race sex native_country",
}


def cases(quick: bool) -> list[Case]:
    if quick:
        few = [("fashion_mnist", "patch"), ("sms_spam", "word"), ("adult", "columns")]
        return [Case(t, a, 0.03, 0) for t, a in few] + [Case("sms_spam", "clean", 0, 0)]
    clean = [Case(task, "clean", 0, seed) for seed in range(CLEAN_SEEDS) for task in CLEAN_TASKS]
    poisoned = [
        Case(task, attack, rate, seed)
        for seed in range(SEEDS)
        for rate in RATES
        for task, attacks in ATTACKS.items()
        for attack in attacks
    ]
    mixed = [case for pair in zip_longest(poisoned, clean) for case in pair if case is not None]
    return sorted(mixed, key=lambda case: case.task == SLOWEST) + variants()


def variants() -> list[Case]:
    found = [Case("breast_cancer", "clean", 0, seed) for seed in range(CLEAN_SEEDS)]
    for name, rates in VARIANTS.items():
        task, attack = name.split("/")
        found += [
            Case(task, attack, rate, seed) for rate in rates for seed in range(VARIANT_SEEDS.get(name, SEEDS))
        ]
    return found


def case_config(case: Case, folder: Path) -> AuditConfig:
    features: dict[str, str] = {"text": "text"}
    model: dict[str, Any] = {"hidden": [64]}
    training: dict[str, Any] = {"epochs": 15, "learning_rate": 0.05, "batch_size": 64, "checkpoints": 1}
    if case.task in ("fashion_mnist", "cifar10"):
        features, model = {"image": "image"}, {"name": "mlp", "hidden": [256, 128]}
        training |= {"learning_rate": 0.03 if case.task == "fashion_mnist" else 0.01}
        if case.attack == "anywhere":  # the MLP doesn't learn it
            model = {"name": "convnet"}
    elif case.task == "breast_cancer":
        features, model = dict.fromkeys(BREAST_CANCER, "numeric"), {"hidden": [64]}
        training |= {"epochs": 40, "batch_size": 32}
    elif case.task == "adult":
        features = {name: kind for kind, names in ADULT.items() for name in names.split()}
        model = {"hidden": [128, 64]}
    else:
        training |= {"learning_rate": 0.3}
    roles = {role: [str(folder / role)] for role in ("train", "validation", "holdout")}
    tree = {
        "name": case.key,
        "data": roles | {"features": features, "label": "label", "validation_is_clean": True},
        "model": model,
        "training": training,
        "compute": {"device": "cpu"},
    }
    return validate(tree, "benchmarks.poison")


def run_case(case: Case, data: Path, with_peers: bool) -> None:
    """Everything about one case, into `result_path(case)` (a task for a worker)."""
    torch.set_num_threads(1)
    folder = CACHE / "poison" / case.key
    run_path = folder / "run"
    if not (run_path / "encoded" / "chunks.json").exists():
        write_case(case, data, folder)
        config = case_config(case, folder)
        write_text(run_path / "config.yaml", config.to_yaml())
    config = run_config(run_path)
    context = AuditContext(config, RunDirectory(run_path), Inline(config.compute))
    if not (run_path / "encoded" / "chunks.json").exists():
        prepare(context)
    train_main(run_path, None)
    write_json(result_path(case), case.as_json() | measure(case, context, with_peers))


def measure(case: Case, context: AuditContext, with_peers: bool) -> dict[str, Any]:
    """What detection found against the truth, and how often the true trigger works before and after."""
    path = context.run.path
    planted = pq.read_table(path.parent / "truth.parquet")["planted"].to_numpy()
    targets = read_json(path.parent / "targets.json")
    result = find_backdoors(context)
    alarms = [alarm.as_json() | {"pattern": None} for alarm in result.alarms]
    found = result.carriers(len(planted))
    measured: dict[str, Any] = {"alarms": alarms, "targets": targets}
    if case.attack == "clean":
        return measured | {"winnow": {"flagged": int(found.sum())}}
    measured["before"] = success(path, final_predictor(path))
    measured["natural"] = success(path, retrained(path, ~planted))
    methods = {"winnow": found}
    if with_peers and case not in variants():
        tensors = load_file(material_path(path))
        share = planted.sum() / (tensors["labels"] == class_of(path, targets[0])).sum()
        methods |= flags(
            tensors["features"], tensors["labels"], tensors["probabilities"].shape[1], float(share)
        )
    measured |= {name: compare(flagged, planted) for name, flagged in methods.items()}
    if found.any():
        measured["winnow"]["after"] = success(path, retrained(path, ~found))
    else:
        measured["winnow"]["after"] = measured["before"]
    measured["on_target"] = set(targets) <= {alarm.target for alarm in result.alarms}
    measured["on_others"] = sum(alarm.target not in targets for alarm in result.alarms)
    return measured


def compare(flagged: np.ndarray, planted: np.ndarray) -> dict[str, Any]:
    hits = int((flagged & planted).sum())
    return {
        "flagged": int(flagged.sum()),
        "recall": hits / int(planted.sum()),
        "precision": hits / int(flagged.sum()) if flagged.any() else None,
        "clean_lost": int((flagged & ~planted).sum()) / int((~planted).sum()),
    }


def class_of(run_path: Path, target: Any) -> int:
    return run_data(run_path).encoding.classes.index(target)


def success(run_path: Path, predict: Predictor) -> float:
    """Share of the triggered holdout rows that are predicted as what the trigger is for, their label."""
    encoding = run_data(run_path).encoding
    table = pq.read_table(run_path.parent / "triggered" / "rows.parquet")
    inputs = encoding.encode_inputs(table.combine_chunks().to_batches()[0])
    wanted = np.array([encoding.classes.index(label) for label in table["label"].to_pylist()])
    return float((predict(inputs).argmax(1) == wanted).mean())


def retrained(run_path: Path, keep: np.ndarray) -> Predictor:
    """The main run's recipe and steps on the kept rows."""
    with deterministic():
        config = run_config(run_path).training
        recipe = make_recipe(config, len(keep), config.seed)
        setup = set_up(run_path, Selection(keep=keep), config.seed, recipe)
        train(setup, {})
        return Predictor(setup.model, setup.device)


def run_cases(missing: Sequence[Case], data: Path, with_peers: bool) -> None:
    """All of them, on as many worker processes as there are cores."""

    def show(place: int, _result: Any) -> None:
        print(missing[place].key, flush=True)

    with Workers(Compute(workers="auto", device="cpu")) as workers:
        tasks = [(case, data, with_peers) for case in missing]
        workers.run(run_case, tasks, [case.key for case in missing], show)


def result_path(case: Case) -> Path:
    return CACHE / "poison" / "results" / f"{case.key}.json"


def summarise(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    poisoned = [each for each in measured if each["attack"] != "clean"]
    clean = [each for each in measured if each["attack"] == "clean"]
    working = [each for each in poisoned if each["before"] >= WORKING]
    wrong_class = share(sum(e["on_others"] > 0 for e in poisoned), len(poisoned))
    on_clean = share(sum(bool(e["alarms"]) for e in clean), len(clean))
    rows.append(line("all", "winnow", "alarm_on_a_wrong_class", wrong_class))
    rows.append(line("all", "winnow", "false_alarm_on_clean_data", on_clean))
    groups = {(e["task"], e["attack"]) for e in poisoned}
    for task, attack in [("all", "all"), *sorted(groups)]:
        of_group = [e for e in working if (e["task"], e["attack"]) == (task, attack)]
        if task == "all":
            of_group = [e for e in working if f"{e['task']}/{e['attack']}" not in VARIANTS]
        rows += summarise_group(f"{task}/{attack}", of_group)
    for each in poisoned:
        task = f"{each['task']}/{each['attack']}/{each['rate']:g}/{each['seed']}"
        rows.append(
            line(task, "winnow", "alarm", {"value": float(each["on_target"]), "before": each["before"]})
        )
    return rows


def summarise_group(task: str, working: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the working attacks of a group; precision over those with flags."""
    rows = []
    methods = [m for m in ("winnow", *PEERS) if any(m in each for each in working)]
    for metric in ("before", "natural"):
        rows.append(line(task, "as_given", f"success_{metric}", mean(each[metric] for each in working)))
    for method in methods:
        of_method = [each[method] for each in working if method in each]
        for metric in ("recall", "precision", "clean_lost"):
            rows.append(line(task, method, metric, mean(each[metric] for each in of_method)))
    if working:
        rows.append(line(task, "winnow", "success_after", mean(each["winnow"]["after"] for each in working)))
        rows.append(line(task, "winnow", "alarm", share(sum(e["on_target"] for e in working), len(working))))
    return rows


PEERS = ("art_spectral_signatures", "art_spectral_signatures_told_the_share", "art_activation_clustering")


def line(task: str, method: str, metric: str, numbers: dict[str, Any]) -> dict[str, Any]:
    return {"task": task, "method": method, "metric": metric} | numbers


def mean(values: Iterable[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"value": None, "n": 0}
    return {"value": float(np.mean(known)), "low": min(known), "high": max(known), "n": len(known)}


def share(count: int, n: int) -> dict[str, Any]:
    """A share with its 95 % Clopper–Pearson interval."""
    if n == 0:
        return {"value": None, "n": 0}
    low = float(beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return {"value": count / n, "low": low, "high": high, "n": n}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poison")
    parser.add_argument("--quick", action="store_true", help="four small cases, without peers")
    parser.add_argument(
        "--data", type=Path, default=HOME / "data", help="holds fashion_mnist/train.parquet and others"
    )
    parser.add_argument(
        "--done", action="store_true", help="summarise the cases that are done, and do no more"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    wanted = [case for case in cases(arguments.quick) if arguments.only in case.key]
    if arguments.done:
        wanted = [case for case in wanted if result_path(case).exists()]
    missing = [case for case in wanted if not result_path(case).exists()]
    print(f"{len(missing)} of {len(wanted)} cases to do", flush=True)
    run_cases(missing, arguments.data, with_peers=not arguments.quick)
    rows = summarise([read_json(result_path(case)) for case in wanted])
    path = write_results("poison", rows)
    for row in rows:
        if row["task"].startswith("all"):
            print(row)
    print(path)


if __name__ == "__main__":
    main()
