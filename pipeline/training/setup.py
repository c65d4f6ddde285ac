"""Builds everything that one training needs from a run directory."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.attribution.model.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.objectives import Objective
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.config import Training
from pipeline.data.encoded import EncodedData
from pipeline.training.batches import Selection, TrainingRows, balanced_class_weights
from pipeline.training.optimizer import make_optimizer
from pipeline.training.recipe import Recipe, make_recipe
from pipeline.workers.worker import (
    plain_objective,
    run_config,
    run_data,
    run_device,
    run_model,
    run_objective,
)


@dataclass(frozen=True)
class Setup:
    """Everything that one training needs."""

    data: EncodedData
    model: nn.Module
    optimizer: Optimizer
    rows: TrainingRows
    objective: Objective
    recipe: Recipe
    device: torch.device
    plain: Objective
    """The loss that is measured. It is `objective`, which is minimised, without label smoothing."""


def set_up(run_path: Path, selection: Selection, seed: int, recipe: Recipe | None = None) -> Setup:
    """Build a training: a model with fresh weights, its optimizer, loss, rows and recipe.

    Args:
        run_path: the run directory.
        selection: which train rows are used.
        seed: of the initial weights, and of the recipe if none is given.
        recipe: None makes the recipe from the config and the number of selected rows.
    """
    config, data = run_config(run_path).training, run_data(run_path)
    device = run_device(run_path)
    rows = TrainingRows(data, selection, config.memory_budget, config.shuffle_buffer, device)
    if recipe is None:
        recipe = make_recipe(config, rows.count, seed)
    model = run_model(run_path, seed)
    optimizer = make_optimizer(model, recipe)
    objective, plain = run_objective(run_path), plain_objective(run_path)
    return Setup(data, model, optimizer, rows, objective, recipe, device, plain)


def averaged_model(setup: Setup, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model at averaged weights, with BatchNorm statistics re-estimated on the training rows."""
    model = copy.deepcopy(setup.model)
    restore_weights(model, weights)
    if has_batchnorm(model):
        batches = setup.rows.batches(setup.recipe.batch_size, setup.recipe.seed, epoch=0)
        reestimate_batchnorm(model, (batch.to(setup.device).inputs for batch in batches))
    return model


def class_weights(config: Training, data: EncodedData) -> Tensor | None:
    """The class weights that the config asks for, float32 `[classes]`; None if it asks for none."""
    if config.class_weights == "none":
        return None
    return balanced_class_weights(data.encoding.class_counts)


@contextmanager
def deterministic() -> Iterator[None]:
    """Use one CPU thread and deterministic algorithms, so that the bits depend on neither the load nor the cores."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products on a GPU raise without it
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode(
        "error"
    )  # use_deterministic_algorithms would import the compiler, which takes a second
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.set_num_threads(threads)
