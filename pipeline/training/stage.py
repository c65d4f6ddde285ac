"""The stage `train`: the trial, then the halves, which determine the length of the early window, then the main run."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.attribution.model.capture import coverage
from pipeline.models import model_name
from pipeline.models.validate import check_model
from pipeline.runs.context import AuditContext
from pipeline.training.halves import HALVES, out_of_sample_losses, train_half
from pipeline.training.main_run import (
    read_curve,
    train_early_window,
    train_main,
    whole_trajectory,
)
from pipeline.training.recipe import make_recipe
from pipeline.training.recorded import (
    check_recorded,
    copy_recorded,
    measure_recorded,
    recorded_early_window,
)
from pipeline.training.replayed import check_replayable, check_same_order
from pipeline.training.trial import choose
from pipeline.workers.worker import run_config, run_data, run_model


def train_stage(context: AuditContext) -> dict[str, Any]:
    """Train the halves (if `detection.halves`) and the main run on the workers.

    Returns:
        The facts of the stage for the run's record.

    Raises:
        InputError: the training's settings do not fit the task, the model does not fit the data, a recorded trajectory
            does not fit, or a loss is NaN or infinite.
    """
    path = context.run.path
    trial = choose(context)
    config, data = run_config(path), run_data(path)
    epochs, seed = config.training.known_epochs, config.training.seed
    data.encoding.target.check_options(config)
    recipe = make_recipe(config.training, data.count("train"), seed)
    model = run_model(path, seed)
    check_model(model.cpu(), data.encoding, data.load(data.chunks("train")[0]).select(slice(0, 4)))
    counts = {role: data.count(role) for role in ("train", "validation")}
    check_replayable(config, model, counts, data.nbytes("train") // counts["train"])
    check_same_order(config, model)
    trajectory = None
    if config.training.trajectory is not None:
        trajectory = check_recorded(config, model, data.count("train"))

    done: dict[str, tuple[int, int]] = {}

    def show(event: dict[str, Any]) -> None:
        done[event["what"]] = (event["done"], event["total"])
        finished, total = (sum(each) for each in zip(*done.values()))
        context.progress("train", finished, total, "epochs")

    context.workers.on_progress(show)
    try:
        losses: list[float] | None = None
        if config.detection.halves:
            tasks = [(path, half) for half in HALVES]
            context.workers.run(train_half, tasks, [f"training half {half + 1}" for half in HALVES])
            losses = out_of_sample_losses(path, epochs)
        early = None if losses is None else int(np.argmin(losses)) + 1
        if trajectory is None:
            context.workers.run(train_main, [(path, early)], ["training"])
        else:
            copy_recorded(trajectory, whole_trajectory(path))
            context.workers.run(measure_recorded, [(path,)], ["recorded checkpoints"])
        curve: list[dict[str, Any]] = [dict(line) for line in read_curve(path, epochs)]
        if early is None:
            early = early_epoch_without_halves(curve)
            if trajectory is None:
                context.workers.run(train_early_window, [(path, early)], ["training the early window"])
        if trajectory is not None:
            context.workers.run(recorded_early_window, [(path, early)], ["the early window's checkpoints"])
    finally:
        context.workers.no_progress()
    for line, loss in zip(curve, losses if losses is not None else [None] * epochs):
        line["out_of_sample_loss"] = loss
    return {
        "model": model_name(config.model, data.encoding),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "coverage_share": coverage(model).share,
        "epochs": epochs,
        "steps": recipe.steps if trajectory is None else trajectory.steps,
        "checkpoints": config.training.checkpoints if trajectory is None else len(trajectory.checkpoints),
        "optimizer": config.training.optimizer,
        "recorded_in": config.training.trajectory,
        "early_epoch": early,
        "trainings": (2 if config.detection.halves else 0) + (trajectory is None),
        "metric": data.encoding.target.metric,
        "validation_metric": curve[-1].get("validation_metric"),
        "trial": trial,
        "curve": curve,
    }


def early_epoch_without_halves(curve: list[dict[str, Any]]) -> int:
    """The epoch with the lowest validation loss; without validation rows, half of the epochs."""
    losses = [line.get("validation_loss") for line in curve]
    if None in losses:
        return max(1, len(curve) // 2)
    return int(np.argmin(np.array(losses, dtype=float))) + 1
