"""One training of the trial: on some of the train rows, judged after every epoch on others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.data.encoded import EncodedData
from pipeline.errors import InputError
from pipeline.models import build_model, initialise
from pipeline.runs.directory import read_json, write_json
from pipeline.training.batches import Selection, TrainingRows
from pipeline.training.dynamics import BATCH
from pipeline.training.halves import order_by_class
from pipeline.training.loop import train
from pipeline.training.optimizer import make_optimizer
from pipeline.training.recipe import make_recipe
from pipeline.training.setup import Setup, class_weights, deterministic
from pipeline.workers.kept import keep
from pipeline.workers.worker import plain_objective, run_config, run_data, run_device, run_objective

MOST_ROWS = 4_000
"""Train rows that take part."""
PART = 5
"""One row of so many is held out and judges the training on the others."""
PATIENCE = 5
"""A training ends when its loss on the held-out rows was not lower for so many epochs, and for half of those that the
lowest took."""
HELD = 2**62


@dataclass(frozen=True)
class Setting:
    """What is tried.

    Attributes:
        model: name of a built-in model, or `custom`.
        rate: the learning rate.
        epochs: at most so many.
        fold: which rows are held out, 0 to PART − 1.
        whole: whether the lowest loss of any epoch counts, so that the training may end when it no longer falls; else
            the loss after all epochs counts.
    """

    model: str
    rate: float
    epochs: int
    whole: bool = True
    fold: int = 0

    @property
    def name(self) -> str:
        return f"{self.model}-{self.rate:g}-{self.epochs}-{self.whole:d}-{self.fold}"


def count_drawn(train: int, row_bytes: int, memory_budget: int) -> int:
    """How many of the train rows take part; as encoded rows they have to fit into the budget."""
    return min(train, MOST_ROWS, max(2 * PART, memory_budget // max(1, row_bytes)))


def drawn_rows(data: EncodedData, seed: int, memory_budget: int) -> np.ndarray:
    """The train rows of the trial, int64 `[rows]`, drawn by the seed within every class."""
    train = data.count("train")
    count = count_drawn(train, data.encoding.row_bytes, memory_budget)
    return order_by_class(data, "trial", seed)[np.arange(count) * train // count]


def result_path(run_path: Path, setting: Setting) -> Path:
    return run_path / "training" / "trial" / f"{setting.name}.json"


def losses_of(run_path: Path, setting: Setting) -> list[float | None]:
    """The mean loss of the held-out rows after every epoch; None where it is infinite or no number any more."""
    found: list[float | None] = read_json(result_path(run_path, setting))["losses"]
    return found


def try_setting(run_path: Path, setting: Setting) -> None:
    """Train with a setting and write its losses (a task for a worker)."""
    path = result_path(run_path, setting)
    if path.exists():
        return
    with deterministic():
        losses = _losses(run_path, setting)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"losses": losses})


def _losses(run_path: Path, setting: Setting) -> list[float | None]:
    config, data, device = run_config(run_path), run_data(run_path), run_device(run_path)
    seed = config.training.seed
    rows, held = _rows(run_path, setting.fold)
    tried = {"epochs": setting.epochs, "learning_rate": setting.rate, "checkpoints": 1}
    recipe = make_recipe(config.training.model_copy(update=tried), rows.count, seed)
    of_model = config.model.model_copy(update={"name": setting.model})
    model = initialise(lambda: build_model(of_model, data.encoding), seed).to(device)
    plain = plain_objective(run_path)
    optimizer, objective = make_optimizer(model, recipe), run_objective(run_path)
    setup = Setup(data, model, optimizer, rows, objective, recipe, device, plain)
    losses: list[float | None] = []

    def after_epoch(epoch: int) -> bool:
        losses.append(_mean_loss(setup, held))
        if losses[-1] is None:
            return True
        best = int(np.argmin(np.array(losses, dtype=float))) + 1
        return setting.whole and epoch - best >= max(PATIENCE, best // 2)

    try:
        train(setup, {}, after_epoch=after_epoch)
    except InputError:  # the loss of a step became infinite
        losses.append(None)
    return losses


def _rows(run_path: Path, fold: int) -> tuple[TrainingRows, TrainingRows]:
    """The rows that are trained on, and the held-out ones; both are held in memory."""
    config, data = run_config(run_path).training, run_data(run_path)
    weights = class_weights(config, data)

    def load() -> tuple[TrainingRows, TrainingRows]:
        rows = drawn_rows(data, config.seed, config.memory_budget)
        judges = np.arange(len(rows)) % PART == fold
        found = []
        for chosen, of_class in ((rows[~judges], weights), (rows[judges], None)):
            keep_rows = np.zeros(data.count("train"), dtype=bool)
            keep_rows[chosen] = True
            selection = Selection(keep=keep_rows, class_weights=of_class)
            found.append(TrainingRows(data, selection, HELD, config.shuffle_buffer, run_device(run_path)))
        return found[0], found[1]

    what = f"rows of the trial, {fold}, {config.seed}, {config.class_weights}, {config.memory_budget}"
    return keep(what, run_path / "encoding.json", load)


def _mean_loss(setup: Setup, held: TrainingRows) -> float | None:
    total = 0.0
    setup.model.eval()
    with torch.no_grad():
        for numbers in torch.arange(held.count).split(BATCH):
            batch = held.select(numbers).to(setup.device)
            total += setup.plain.losses(setup.model(batch.inputs), batch.labels).double().sum().item()
    return total / held.count if np.isfinite(total) else None
