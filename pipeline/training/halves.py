"""Two trainings on complementary halves of the train rows: each row is judged by the training that did not see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts import Step
from pipeline.data.encoded import EncodedData
from pipeline.seeds import random_state
from pipeline.training.batches import Selection
from pipeline.training.dynamics import epoch_path, evaluate_role, read_column
from pipeline.training.loop import train
from pipeline.training.main_run import role_labels
from pipeline.training.setup import class_weights, deterministic, set_up
from pipeline.training.tensor_file import RowsFile
from pipeline.workers.worker import emit_progress, run_config, run_data

HALVES = (0, 1)


def half_directory(run_path: Path, half: int) -> Path:
    return run_path / "training" / f"half-{half}"


def order_by_class(data: EncodedData, purpose: str, seed: int) -> np.ndarray:
    """All train rows in a seeded random order, int64 `[train rows]`; those of a class stand together."""
    order = random_state(purpose, seed).permutation(data.count("train"))
    if data.encoding.task == "classification":
        labels = role_labels(data, "train").numpy()
        order = order[np.argsort(labels[order], kind="stable")]
    return order


def assign_halves(data: EncodedData, seed: int) -> np.ndarray:
    """The half (0 or 1) of each train row, int8 `[train rows]`: a seeded random split, within every class."""
    order = order_by_class(data, "halves", seed)
    halves = np.zeros(len(order), dtype=np.int8)
    halves[order[1::2]] = 1
    return halves


def train_half(run_path: Path, half: int) -> None:
    """Train on one half, and judge the rows of the other half after every epoch (a task for a worker)."""
    config, data = run_config(run_path).training, run_data(run_path)
    directory = half_directory(run_path, half)
    step = Step(directory)
    if step.done:
        return
    halves = assign_halves(data, config.seed)
    selection = Selection(keep=halves == half, class_weights=class_weights(config, data))
    with deterministic():
        setup = set_up(run_path, selection, config.seed)

        def after_epoch(epoch: int) -> None:
            path, given = epoch_path(directory, epoch), (setup.model, setup.plain, data)
            evaluate_role(*given, "train", setup.device, halves != half, path)
            for role in _other_roles(run_path):
                evaluate_role(*given, role, setup.device, path=epoch_path(directory / role, epoch))
            emit_progress(f"half {half + 1}", epoch, config.known_epochs)

        train(
            setup,
            {},
            after_epoch=after_epoch,
        )
    step.finish()


def _other_roles(run_path: Path) -> list[str]:
    """The roles that the halves judge besides train: validation, and the holdout unless its labels are clean."""
    config, data = run_config(run_path).data, run_data(run_path)
    wanted = {"validation": True, "holdout": not config.labels_are_clean("holdout")}
    return [role for role, is_wanted in wanted.items() if is_wanted and data.count(role)]


def out_of_sample_losses(run_path: Path, epochs: int) -> list[float]:
    """The mean loss of all train rows after every epoch; each row is judged by the half that did not see it."""
    total, count = np.zeros(epochs), 0
    for half in HALVES:
        for epoch, losses in enumerate(read_column(half_directory(run_path, half), "loss", epochs)):
            total[epoch] += losses.double().sum().item()
        count += len(losses)
    return [float(each) for each in total / count]


def merged_halves(
    run_path: Path, halves: np.ndarray, epoch: int, start: int = 0, stop: int | None = None
) -> dict[str, Tensor]:
    """The dynamics of some train rows after one epoch; each row is judged by the half that did not see it.

    Args:
        run_path: the run directory.
        halves: int8 `[train rows]`, from `assign_halves`.
        epoch: counted from 1.
        start: the first train row.
        stop: the train row after the last one; None takes all rows from `start` on.

    Returns:
        The tensors of `dynamics`, one entry per row.
    """
    mine = halves[start:stop]
    merged: dict[str, Tensor] = {}
    for half in HALVES:
        file = RowsFile(epoch_path(half_directory(run_path, half), epoch))
        first, where = int(np.count_nonzero(halves[:start] != half)), torch.from_numpy(mine != half)
        last = first + int(where.sum())
        for name in file.names:
            values = file.read(name, first, last)
            target = merged.setdefault(name, torch.empty(len(mine), *values.shape[1:], dtype=values.dtype))
            target[where] = values
    return merged
