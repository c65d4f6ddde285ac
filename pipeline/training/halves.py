"""Two trainings on complementary halves: each row is judged by the one that did not see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.compute.worker import emit_progress, run_config, run_data
from pipeline.data.encoded import EncodedData
from pipeline.seeds import random_state
from pipeline.training.batches import Selection
from pipeline.training.dynamics import epoch_path, evaluate_role, read_column, read_epoch
from pipeline.training.loop import train
from pipeline.training.setup import class_weights, deterministic, set_up
from pipeline.training.state import save_tensors

HALVES = (0, 1)


def half_directory(run_path: Path, half: int) -> Path:
    return run_path / "training" / f"half-{half}"


def assign_halves(data: EncodedData, seed: int) -> np.ndarray:
    """int8 `[train rows]`, 0 or 1: within every class, half of the rows in a seeded random order."""
    labels = np.concatenate([data.load(chunk).labels.numpy() for chunk in data.chunks("train")])
    if data.encoding.task != "classification":
        labels = np.zeros(len(labels), dtype=np.int64)
    order = random_state("halves", seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    halves = np.empty(len(labels), dtype=np.int8)
    halves[by_class] = np.arange(len(labels)) % 2
    return halves


def train_half(run_path: Path, half: int) -> None:
    """Train on one half; after every epoch judge the rows of the other one (a task for a worker)."""
    config, data = run_config(run_path).training, run_data(run_path)
    directory = half_directory(run_path, half)
    done = directory / "done"
    if done.exists():
        return
    halves = assign_halves(data, config.seed)
    selection = Selection(keep=halves == half, class_weights=class_weights(config, data))
    with deterministic():
        setup = set_up(run_path, selection, config.seed)

        def after_epoch(epoch: int) -> None:
            judged = evaluate_role(
                setup.model, setup.objective, data, "train", setup.device, judged=halves != half
            )
            save_tensors(epoch_path(directory, epoch), judged)
            if data.count("validation"):
                judged = evaluate_role(setup.model, setup.objective, data, "validation", setup.device)
                save_tensors(epoch_path(directory / "validation", epoch), judged)
            emit_progress(f"half {half + 1}", epoch, config.epochs)

        train(
            setup,
            {},
            after_epoch=after_epoch,
        )
    done.touch()


def out_of_sample_losses(run_path: Path, epochs: int) -> list[float]:
    """The mean loss of all rows, each judged by the training that did not see it, after every epoch."""
    total, count = np.zeros(epochs), 0
    for half in HALVES:
        for epoch, losses in enumerate(read_column(half_directory(run_path, half), "loss", epochs)):
            total[epoch] += losses.double().sum().item()
        count += len(losses)
    return [float(each) for each in total / count]


def merged_halves(data: EncodedData, seed: int, epoch: int) -> dict[str, Tensor]:
    """One epoch's measurements of all train rows, `[train rows, …]`, each by the half that did not see it."""
    halves = torch.from_numpy(assign_halves(data, seed))
    merged: dict[str, Tensor] = {}
    for half in HALVES:
        for name, values in read_epoch(half_directory(data.run_path, half), epoch).items():
            target = merged.setdefault(name, torch.empty(len(halves), *values.shape[1:], dtype=values.dtype))
            target[halves != half] = values
    return merged
