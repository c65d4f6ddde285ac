"""The arms of verification: which train rows take part in a retraining, and with which labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.compute.worker import keep, run_config, run_data
from pipeline.detection.strata import read_strata
from pipeline.seeds import random_state
from pipeline.training.batches import Selection
from pipeline.training.main_run import role_labels
from pipeline.training.setup import class_weights


@dataclass(frozen=True)
class Decisions:
    """What rows.parquet decided about the train rows, in the order of the encoded rows.

    removed, relabelled, has_suggestion: bool `[rows]`; given, suggested: encoded labels `[rows]` (integer
    classes, float32 standardised targets or sets `[rows, labels]`), where `suggested` is the given label of
    rows without a suggestion. strata: integers `[rows]`, the class, else what detection wrote (`detection.strata`).
    """

    removed: np.ndarray
    relabelled: np.ndarray
    has_suggestion: np.ndarray
    given: Tensor
    suggested: Tensor
    strata: np.ndarray

    @property
    def rescued(self) -> np.ndarray:
        """bool `[rows]`: the rows to remove that could be kept with another label instead."""
        return self.removed & self.has_suggestion


def read_decisions(run_path: Path) -> Decisions:
    """Read rows.parquet; kept in memory until the file changes."""
    path = run_path / "rows.parquet"

    def read() -> Decisions:
        data = run_data(run_path)
        given = role_labels(data, "train")
        suggested = given.clone()
        removed, relabelled, has_suggestion = np.zeros((3, len(given)), dtype=bool)
        done = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["decision", "suggested_label"]):
                place = slice(done, done + batch.num_rows)
                done = place.stop
                removed[place] = pc.equal(batch["decision"], "remove")
                relabelled[place] = pc.equal(batch["decision"], "relabel")
                has_suggestion[place] = valid = batch["suggested_label"].is_valid()
                found = torch.from_numpy(data.encoding.label.encode(batch["suggested_label"].drop_null()))
                suggested[place][torch.from_numpy(np.asarray(valid))] = found.to(suggested.dtype)
        return Decisions(
            removed=removed,
            relabelled=relabelled,
            has_suggestion=has_suggestion,
            given=given,
            suggested=suggested,
            strata=given.numpy() if data.encoding.task == "classification" else read_strata(run_path),
        )

    return keep("decisions", path, read)


def random_removal(strata: np.ndarray, removed: np.ndarray, seed: int) -> np.ndarray:
    """bool `[rows]`, True where kept: of every stratum as many random rows go as `removed` takes from it."""
    counts = np.bincount(strata[removed], minlength=int(strata.max()) + 1)
    order = random_state("random removal", seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    grouped = strata[order]
    place = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    kept = np.empty(len(strata), dtype=bool)
    kept[order] = place >= counts[grouped]
    return kept


def arm_rows(decisions: Decisions, arm: str, seed: int) -> tuple[np.ndarray | None, Tensor | None]:
    """The rows that `arm` keeps, bool `[rows]`, and its labels `[rows]`; None: all rows, the given labels.

    A random removal is drawn anew for every seed, so that the control averages over random sets.
    """
    if arm == "as_given":
        return None, None
    if arm == "random_removal":
        return random_removal(decisions.strata, decisions.removed, seed), None
    removed, relabelled = decisions.removed, decisions.relabelled
    if arm == "relabelled":
        removed, relabelled = removed & ~decisions.rescued, relabelled | decisions.rescued
    changed = torch.from_numpy(relabelled).reshape(-1, *[1] * (decisions.given.dim() - 1))
    labels = torch.where(changed, decisions.suggested, decisions.given)
    return ~removed, labels


def arm_selection(run_path: Path, arm: str, seed: int) -> Selection:
    """What a retraining of `arm` trains on; class weights are those of all train rows, as in the main run."""
    kept, labels = arm_rows(read_decisions(run_path), arm, seed)
    weights = class_weights(run_config(run_path).training, run_data(run_path))
    return Selection(keep=kept, labels=labels, class_weights=weights)
