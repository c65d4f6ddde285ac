"""The tasks of `winnow lds` for workers: retrainings on parts of the rows, and the scores of every method."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from pipeline.attribution.front_door import attribute
from pipeline.attribution.methods import METHODS
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.rows.stages import StageData
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.config import digest
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import TrainPairs, attribution_model
from pipeline.scoring.refine import refined_settings
from pipeline.seeds import random_state
from pipeline.training.batches import Selection
from pipeline.training.main_run import whole_trajectory
from pipeline.training.setup import deterministic
from pipeline.verification.lds import random_mask
from pipeline.verification.retrain import check_finite, train_selected, validation_losses
from pipeline.workers.worker import plain_objective, run_config, run_data, run_device, run_objective

PIECES = ("retrainings", "scores", "curve")
"""Folders of results that are kept, so that an interrupted measurement can resume."""
RANDOM = "random"
"""The name of the removal curve's control, which removes random rows."""
SEED = 1000
"""The seed of the first retraining; it differs from the seed of the attributed model."""


@dataclass(frozen=True)
class FaithfulnessWork:
    """The paths and settings of one measurement.

    Attributes:
        run_path: the run directory.
        folder: for results.
        removed: the share of rows that a mask removes.
        queries: how many single validation rows are queries.
    """

    run_path: Path
    folder: Path
    removed: float
    queries: int

    def mask_path(self, mask: int, seed: int) -> Path:
        return self.folder / PIECES[0] / f"{self.removed:g}-{mask}-{seed}.safetensors"

    def scores_path(self, method: str, single: bool) -> Path:
        kept = f"{self.with_settings(method)}-{self.queries if single else 'mean'}.safetensors"
        return self.folder / PIECES[1] / kept

    def curve_path(self, method: str, share: float, seed: int) -> Path:
        return self.folder / PIECES[2] / f"{self.with_settings(method)}-{share:g}-{seed}.safetensors"

    def with_settings(self, method: str) -> str:
        """The name of a method and a hash of its settings, so that scores of other settings are not reused."""
        if method == RANDOM:
            return method
        return f"{method}-{digest({name: repr(value) for name, value in self.settings(method).items()})}"

    def settings(self, method: str) -> dict[str, Any]:
        """The arguments of `attribute` for a method, from the run's config."""
        config = run_config(self.run_path).attribution
        found = {"query_at": config.query_at, "fisher": config.fisher, "seed": config.seed}
        return found | ({"refined": refined_settings(config)} if METHODS[method].refined else {})

    def removed_rows(self, mask: int) -> np.ndarray:
        """The rows that a mask removes, bool `[train rows]`."""
        return random_mask(run_data(self.run_path).count("train"), self.removed, "lds mask", mask)

    def query_rows(self) -> np.ndarray:
        """The places of the single queries among the validation rows, int64, ascending."""
        count = run_data(self.run_path).count("validation")
        return np.sort(random_state("lds queries").permutation(count)[: self.queries])

    def scores(self, method: str, single: bool) -> np.ndarray:
        """τ, float64 `[queries, rows]`: the rise of a query's loss, or of the mean loss, if a row is removed."""
        return load_file(self.scores_path(method, single))["scores"]


def retrain_mask(work: FaithfulnessWork, mask: int, seed: int) -> None:
    """Train without the rows of a mask for as many epochs as the main run, and write the results of `_write_losses`."""
    _write_losses(work.mask_path(mask, seed), work, ~work.removed_rows(mask), seed, keep_steps=False)


def retrain_curve(work: FaithfulnessWork, method: str, share: float, seed: int) -> None:
    """Train without the most harmful rows by a method, or without random rows, for as many steps as the main run."""
    rows = run_data(work.run_path).count("train")
    if method == RANDOM:
        removed = (
            random_mask(rows, share, "lds random removal", seed) if share else np.zeros(rows, dtype=bool)
        )
    else:
        removed = np.zeros(rows, dtype=bool)
        order = np.argsort(work.scores(method, single=False)[0], kind="stable")
        removed[order[: max(1, round(share * rows))]] = True
    _write_losses(work.curve_path(method, share, seed), work, ~removed, seed, keep_steps=True)


def _write_losses(path: Path, work: FaithfulnessWork, keep: np.ndarray, seed: int, keep_steps: bool) -> None:
    """Train on the rows of `keep` and write `loss`, float32 `[validation rows]`, and the time, `seconds`."""
    begin = time.perf_counter()
    with deterministic():
        setup, averaged = train_selected(
            work.run_path, Selection(keep=keep), SEED + seed, keep_steps=keep_steps
        )
        found = {"loss": validation_losses(setup, averaged)}
    check_finite(found)
    save_tensors(path, found | {"seconds": torch.tensor(time.perf_counter() - begin, dtype=torch.float64)})


def score(work: FaithfulnessWork, method: str, single: bool) -> None:
    """Write τ of a method for single queries or for the mean validation loss (a task for a worker)."""
    path = work.run_path
    found = attribute(
        attribution_model(path),
        Trajectory.load(whole_trajectory(path)),
        [StageData(TrainPairs(path), loss=run_objective(path))],
        _query_batches(work, single),
        loss=plain_objective(path),
        method=method,
        reduce_queries=not single,
        calibrate=method == "source" and not single,
        **work.settings(method),
    )
    effects = found.influence if single else -found.harm[None] if found.harm is not None else None
    assert effects is not None
    save_tensors(work.scores_path(method, single), {"scores": effects.double().cpu().contiguous()})


def _query_batches(work: FaithfulnessWork, single: bool) -> list[tuple[Inputs, Tensor]]:
    data, device = run_data(work.run_path), run_device(work.run_path)
    chosen = work.query_rows() if single else np.arange(data.count("validation"))
    found: list[tuple[Inputs, Tensor]] = []
    for chunk in data.chunks("validation"):
        inside = chosen[chunk.holds(chosen)] - chunk.first
        if len(inside):
            rows = data.load(chunk).select(torch.from_numpy(inside)).to(device)
            found.append((rows.inputs, rows.labels))
    return found
