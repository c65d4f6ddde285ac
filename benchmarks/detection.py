"""How well are planted wrong labels found: Winnow, its signals one by one, and its peers on the same runs.

    python -m benchmarks.detection [--quick] [--seeds N] [--data DIR]

Each sample is audited with several training seeds, as `configs/SAMPLE.yaml` says, up to its decisions. Peers
get the run's own encoded rows, model and training recipe:

- cleanlab: five folds; every row is judged by the training that did not see it, at its end. Ranking by
  `get_label_quality_scores` (self-confidence), flags by `find_label_issues`, both with their defaults.
- cleanlab_early: the same trainings at the epoch of their least out-of-sample loss.
- aum: minus the mean margin over all epochs of the audited training (Pleiss et al. 2020).
- final_loss: the audited training's loss at its end.

`winnow_no_halves` and `winnow_no_validation` are audits of their own, without the trainings on halves and
without validation rows. Values are means over the seeds, `low` and `high` the extremes. Runs are kept under
benchmarks/cache/detection/, so that the same command goes on after an interruption; remove it to start anew.

DIR: a folder of the original sets (data_samples/originals.py), from which the samples are made again; without
it those that ship with the project are used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from benchmarks.demo import ROOT, SAMPLES, planted
from benchmarks.results import CACHE, write_results
from data_samples.make import make
from pipeline.compute.worker import run_config, run_data
from pipeline.config import AuditConfig, load_config
from pipeline.context import AuditContext
from pipeline.data.encoded import Rows
from pipeline.open_run import open_run
from pipeline.run import RunDirectory
from pipeline.stages import STAGES, fingerprints, run_stage
from pipeline.training.batches import Selection
from pipeline.training.dynamics import BATCH, mean_column
from pipeline.training.loop import train
from pipeline.training.main_run import main_directory, role_labels
from pipeline.training.setup import Setup, class_weights, deterministic, set_up
from pipeline.training.state import save_tensors

NOISE = {
    "fashion_mnist": "fashion_mnist/uniform",
    "digits": "digits/uniform",
    "digits_pairs": "digits/pairs",
    "adult": "adult/uniform",
    "sms_spam": "sms_spam/uniform",
}
"""Samples and the beginning of their tasks' names."""

SEEDS = 3
QUICK_SAMPLE = "digits"

VARIANTS: dict[str, dict[str, Any]] = {
    "winnow": {},
    "winnow_no_halves": {"detection.halves": False},
    "winnow_no_validation": {"data.validation": None, "data.validation_is_clean": False},
}
LOW_IS_SUSPICIOUS = {"early_margin", "neighbour_margin", "half_confidence"}
SCORES = ("self_influence", "validation_harm", "final_loss")
FOLDS = 5
TARGET = 0.08
"""By how much Winnow's average precision is to be above cleanlab's on fashion_mnist."""


@dataclass(frozen=True)
class Finding:
    """What one method says about the rows of one audit.

    suspicion: float64 `[rows]`, high = suspicious; flags: bool `[rows]` by what they are called;
    trainings: how many models were trained; full_trainings: the same in trainings on all rows for all epochs;
    None for what is a part of the audit.
    """

    method: str
    suspicion: np.ndarray
    flags: dict[str, np.ndarray] = field(default_factory=dict)
    trainings: int | None = None
    full_trainings: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection")
    parser.add_argument("--quick", action="store_true", help="the digits with one seed, within two minutes")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help=f"trainings of each kind, by default {SEEDS}"
    )
    parser.add_argument("--data", type=Path, help="a folder of the original sets, to make the samples from")
    arguments = parser.parse_args()
    samples, seeds = ((QUICK_SAMPLE,), 1) if arguments.quick else (tuple(NOISE), arguments.seeds)
    rows: list[dict[str, Any]] = []
    for sample in samples:
        folder = SAMPLES / sample if arguments.data is None else make_sample(sample, arguments.data)
        rows += summarise(*zip(*(examine(sample, folder, seed) for seed in range(seeds))))
        show(rows[-1]["task"], rows)
    print(write_results("detection", rows))


def make_sample(sample: str, originals: Path) -> Path:
    home = CACHE / "samples"
    make(sample, originals, home)
    return home / sample


def sample_config(sample: str, folder: Path, seed: int) -> AuditConfig:
    roles = {f"data.{role}": str(folder / role) for role in ("train", "validation", "holdout")}
    return load_config(ROOT / "configs" / f"{sample}.yaml", roles | {"training.seed": seed})


def examine(sample: str, folder: Path, seed: int) -> tuple[str, dict[tuple[str, str, str | None], float]]:
    """The task's name, and its values by method, metric and name of the flags; runs what is not done."""
    config = sample_config(sample, folder, seed)
    home = CACHE / "detection" / f"{sample}-{seed}-{config.hash()}"
    findings: list[Finding] = []
    for method, changes in VARIANTS.items():
        with open_run(config.with_changes(changes), home / method) as context:
            run_until_detection(context)
            findings.append(judged_by_winnow(method, context.run))
            if method == "winnow":
                findings += [*signals(context.run), *peers(context, home / "folds")]
    keys = pq.read_table(home / "winnow" / "rows.parquet", columns=["row_key"])["row_key"]
    wrong = planted(folder / "truth.parquet", keys)
    values = {
        (finding.method, *which): value
        for finding in findings
        for which, value in measure(finding, wrong).items()
    }
    return f"{NOISE[sample]}/{wrong.mean():.2g}", values


def run_until_detection(context: AuditContext) -> None:
    expected = fingerprints(context.config)
    for stage in STAGES:
        run_stage(stage, context, expected[stage.name])
        if stage.name == "detect":
            return


def judged_by_winnow(method: str, run: RunDirectory) -> Finding:
    """The ranking and the decisions of an audit."""
    rows, facts = pq.read_table(run / "rows.parquet"), run.facts("train")
    if facts["trainings"] > 1:
        full = 2.0  # two halves are one training more
    else:
        window = 2 * facts["early_epoch"]  # trained again for its checkpoints, unless it is the whole run
        full = 1 + (window / facts["epochs"] if window < facts["epochs"] else 0)
    flags = {
        "remove": pc.equal(rows["decision"], "remove").to_numpy(),
        "remove + review": pc.not_equal(rows["decision"], "keep").to_numpy(),
    }
    return Finding(method, rows["suspicion"].to_numpy(), flags, facts["trainings"], full)


def signals(run: RunDirectory) -> Iterator[Finding]:
    """Every signal and score of the audit as a ranking of its own."""
    table = pq.read_table(run / "signals.parquet").drop_columns("row_key")
    for name in table.column_names:
        values = table[name].to_numpy()
        yield Finding(name, -values if name in LOW_IS_SUSPICIOUS else values)
    rows = pq.read_table(run / "rows.parquet", columns=list(SCORES))
    for name in SCORES:
        yield Finding(name, rows[name].to_numpy())


def peers(context: AuditContext, directory: Path) -> Iterator[Finding]:
    """AUM on the audited training; cleanlab on trainings of the same recipe on four fifths of the rows."""
    path, epochs = context.run.path, context.config.training.epochs
    yield Finding("aum", -mean_column(main_directory(path), "margin", epochs), {}, 1, 1.0)
    labels = role_labels(run_data(path), "train").numpy()
    probabilities = out_of_sample(context, directory, labels)
    own = probabilities[:, np.arange(len(labels)), labels]
    early = int(np.argmin(-np.log(np.maximum(own, 1e-12)).mean(axis=1)))
    for method, epoch in (("cleanlab", epochs - 1), ("cleanlab_early", early)):
        of_epoch = probabilities[epoch]
        flags = {"default filter": find_label_issues(labels, of_epoch, n_jobs=1)}
        yield Finding(method, -get_label_quality_scores(labels, of_epoch), flags, FOLDS, FOLDS - 1.0)


def out_of_sample(context: AuditContext, directory: Path, labels: np.ndarray) -> np.ndarray:
    """float32 `[epochs, rows, classes]`: probabilities by the training that did not see the row."""
    folds = np.empty(len(labels), dtype=np.int8)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=context.config.training.seed)
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels)):
        folds[held_out] = fold
    paths = [directory / f"fold-{fold}.safetensors" for fold in range(FOLDS)]
    waiting = [fold for fold in range(FOLDS) if not paths[fold].exists()]
    tasks = [(context.run.path, paths[fold], folds != fold) for fold in waiting]
    context.workers.run(train_fold, tasks, [f"fold {fold}" for fold in waiting])
    found = [load_file(path)["probabilities"] for path in paths]
    merged = np.empty((len(found[0]), len(labels), found[0].shape[2]), dtype=np.float32)
    for fold, probabilities in enumerate(found):
        merged[:, folds == fold] = probabilities
    return merged


def train_fold(run_path: Path, path: Path, keep: np.ndarray) -> None:
    """Train on the rows of `keep` (bool `[rows]`) and write what the model makes of the others.

    `probabilities`: float32 `[epochs, other rows, classes]` (a task for a worker).
    """
    config, data = run_config(run_path).training, run_data(run_path)
    others = data.load_role("train").select(torch.from_numpy(np.flatnonzero(~keep)))
    found: list[Tensor] = []
    with deterministic():
        setup = set_up(run_path, Selection(keep, class_weights=class_weights(config, data)), config.seed)
        train(
            setup,
            {},
            after_epoch=lambda _: found.append(class_probabilities(setup, others)),
        )
    save_tensors(path, {"probabilities": torch.stack(found)})


def class_probabilities(setup: Setup, rows: Rows) -> Tensor:
    """float32 `[rows, classes]` in eval mode."""
    setup.model.eval()
    with torch.no_grad():
        parts = [
            setup.model(rows.select(slice(start, start + BATCH)).to(setup.device).inputs).softmax(1).cpu()
            for start in range(0, len(rows), BATCH)
        ]
    return torch.cat(parts)


def measure(finding: Finding, wrong: np.ndarray) -> dict[tuple[str, str | None], float]:
    """Values by metric and what the flags are called (None for the ranking); `wrong` is bool `[rows]`."""
    found: dict[tuple[str, str | None], float] = {
        ("average_precision", None): average_precision_score(wrong, finding.suspicion),
        ("auroc", None): roc_auc_score(wrong, finding.suspicion),
    }
    for name, flagged in finding.flags.items():
        precision, recall, f1, _ = precision_recall_fscore_support(
            wrong, flagged, average="binary", zero_division=0
        )
        found |= {("precision", name): precision, ("recall", name): recall, ("f1", name): f1}
        found["flagged_share", name] = flagged.mean()
    if finding.trainings is not None and finding.full_trainings is not None:
        found["trainings", None] = finding.trainings
        found["full_trainings", None] = finding.full_trainings
    return {key: float(value) for key, value in found.items()}


def summarise(
    tasks: tuple[str, ...], of_seeds: tuple[dict[tuple[str, str, str | None], float], ...]
) -> list[dict[str, Any]]:
    """One line per method and metric: mean and extremes over the seeds; and Winnow's lead, paired by seed."""
    values: dict[tuple[str, str, str | None], list[float]] = defaultdict(list)
    for of_seed in of_seeds:
        for key, value in of_seed.items():
            values[key].append(value)
    metric = "average_precision"
    for peer in ("cleanlab", "cleanlab_early", "aum"):
        pairs = zip(values["winnow", metric, None], values[peer, metric, None])
        values[f"winnow - {peer}", metric, None] = [ours - theirs for ours, theirs in pairs]
    rows = []
    for (method, metric, flags), each in values.items():
        row: dict[str, Any] = {"task": tasks[0], "method": method, "metric": metric}
        row |= {"value": float(np.mean(each)), "low": min(each), "high": max(each), "n": len(each)}
        row |= {"flags": flags} if flags else {}
        if tasks[0].startswith("fashion_mnist/") and method == "winnow - cleanlab":
            row |= {"target": TARGET, "met": row["value"] >= TARGET}
        rows.append(row)
    return rows


def show(task: str, rows: list[dict[str, Any]]) -> None:
    print(task)
    for row in rows:
        if row["task"] == task and row["metric"] == "average_precision":
            line = f"  {row['method']:26s} {row['value']:6.3f}  [{row['low']:.3f}, {row['high']:.3f}]"
            print(line, flush=True)


if __name__ == "__main__":
    main()
