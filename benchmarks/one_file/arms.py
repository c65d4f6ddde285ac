"""What a user may do with the file: arms, and how well the audit's own model does on true labels after each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.detection_tasks import GIVEN
from benchmarks.inline import Inline
from benchmarks.one_file.configurations import KEY, OneFile
from pipeline.config import AuditConfig, digest
from pipeline.data.prepare import prepare
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.text.decisions import Decision
from pipeline.training.batches import Selection
from pipeline.training.setup import class_weights
from pipeline.training.trial import choose
from pipeline.verification.retrain import train_and_measure
from pipeline.workers.worker import run_config, run_data

RETRAININGS = (1001, 1002, 1003, 1004, 1005)


@dataclass(frozen=True)
class Arm:
    """keep: bool `[rows]` of the file; labels: those that the rows are trained with, or None for the given ones."""

    keep: np.ndarray
    labels: pa.Array | None = None

    @cached_property
    def hash(self) -> str:
        labels = None if self.labels is None else self.labels.filter(pa.array(self.keep)).to_pylist()
        return digest([np.packbits(self.keep).tolist(), len(self.keep), labels])


def without(flagged: np.ndarray) -> Arm:
    return Arm(~flagged)


def arms_of_decisions(given: pa.Array, proposals: pa.Array, lines: pa.Table) -> dict[str, Arm]:
    """The arms of the proposals: `removed`, `relabelled` (removed where there is no suggestion) and `mixed`.

    lines: rows.parquet in the order of the file, null where a row is not in it. Without suggestions only `removed`.
    """
    removed = is_in(proposals, Decision.REMOVE.word)
    relabelled = is_in(proposals, Decision.RELABEL.word)
    likely_wrong = removed | relabelled
    found = {"removed": without(likely_wrong)}
    suggested = lines["suggested_label"].combine_chunks().cast(given.type)
    there = suggested.is_valid().to_numpy(zero_copy_only=False)
    if not there.any():
        return found
    chosen = lines["new_label"].combine_chunks() if "new_label" in lines.column_names else suggested
    chosen = pc.coalesce(chosen.cast(given.type), suggested)
    found["relabelled"] = Arm(
        ~(likely_wrong & ~there), pc.if_else(pa.array(likely_wrong & there), suggested, given)
    )
    has_new = chosen.is_valid().to_numpy(zero_copy_only=False)
    found["mixed"] = Arm(
        ~(removed | (relabelled & ~has_new)), pc.if_else(pa.array(relabelled & has_new), chosen, given)
    )
    return found


def is_in(proposals: pa.Array, decision: str) -> np.ndarray:
    return pc.equal(proposals, decision).fill_null(False).to_numpy(zero_copy_only=False)


def exported_arm(run: RunDirectory, file: OneFile) -> Arm | None:
    """What lies in cleaned/; None where nothing was exported."""
    if not (run / "cleaned").is_dir():
        return None
    parts = sorted((run / "cleaned").rglob("*.parquet"))
    cleaned = pa.concat_tables([pq.read_table(path, columns=[KEY, GIVEN]) for path in parts])
    keys, given = file.rows[KEY].combine_chunks(), file.rows[GIVEN].combine_chunks()
    places = pc.index_in(keys, value_set=cleaned[KEY].combine_chunks())
    labels = pc.coalesce(cleaned[GIVEN].combine_chunks().take(places).cast(given.type), given)
    return Arm(places.is_valid().to_numpy(zero_copy_only=False), None if labels.equals(given) else labels)


class Retrainings:
    """Accuracies (regression: R²) on the test rows, by arm and seed; kept in a file as soon as they are there.

    The key of a line is the recipe, the rows and their labels, so that arms that did not change are not trained
    again whatever else did.
    """

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[tuple[str, str, int], float] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._known[entry["recipe"], entry["arm"], entry["seed"]] = entry["score"]

    def scores(
        self, config: AuditConfig, arms: Mapping[str, Arm], prepared: Callable[[], Path]
    ) -> dict[str, list[float]]:
        """A score per seed by arm. prepared: makes the run directory of `prepare_rows` when it is needed."""
        run_path, found = None, {}
        if config.left_to_trial:
            run_path = prepared()
            config = run_config(run_path)
        recipe = recipe_hash(config)
        for name, arm in arms.items():
            for seed in RETRAININGS:
                key = (recipe, arm.hash, seed)
                if key not in self._known:
                    run_path = run_path or prepared()
                    self._keep(key, score_of(run_path, arm, seed))
            found[name] = [self._known[recipe, arm.hash, seed] for seed in RETRAININGS]
        return found

    def _keep(self, key: tuple[str, str, int], score: float) -> None:
        self._known[key] = score
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(dict(zip(("recipe", "arm", "seed"), key)) | {"score": score}) + "\n")


def recipe_hash(config: AuditConfig) -> str:
    """Of what a retraining depends on besides the rows."""
    tree = config.as_dict()
    return digest([tree["model"], tree["training"], tree["data"]["features"], tree["data"]["max_tokens"]])


def prepare_rows(config: AuditConfig, file: OneFile, path: Path) -> Path:
    """A run directory in which all rows of the file are train rows, and the test rows holdout.

    What the config leaves to a trial is chosen.
    """
    changes = {
        "data.train": [str(file.path)],
        "data.split": None,
        "data.validation": None,
        "data.holdout": [str(file.test_path)],
        "compute.device": "cpu",
    }
    changed = config.with_changes(changes)
    run = RunDirectory(path)
    write_text(run / "config.yaml", changed.to_yaml())
    context = AuditContext(changed, run, Inline(changed.compute))
    prepare(context)
    choose(context)
    return run.path


def score_of(run_path: Path, arm: Arm, seed: int) -> float:
    """Mean score of the test rows, with true labels, after training on the arm's rows for as many steps as all take."""
    data = run_data(run_path)
    labels: Tensor | None = None
    if arm.labels is not None:
        labels = torch.from_numpy(data.encoding.label.encode(arm.labels))
    weights = class_weights(run_config(run_path).training, data)
    selection = Selection(keep=arm.keep, labels=labels, class_weights=weights)
    return float(train_and_measure(run_path, selection, seed)["tail_score"].double().mean())
