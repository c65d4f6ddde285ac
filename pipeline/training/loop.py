"""The training loop: one optimizer step per batch, observers that are called after every step, and resumable state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.encoded import Rows
from pipeline.errors import InputError
from pipeline.training.observer import Observer
from pipeline.training.recipe import steps_per_epoch
from pipeline.training.setup import Setup
from pipeline.training.state import load_state, save_state

LOSS_CHECK_STEPS = 50
"""The loss is checked every so many steps, because every check makes the GPU wait."""


def train(
    setup: Setup,
    observers: dict[str, Observer],
    *,
    stop_after: int | None = None,
    after_epoch: Callable[[int], bool | None] | None = None,
    state: tuple[Path, set[int]] | None = None,
) -> None:
    """Train the model of a setup in place.

    The loss of a step is Σ weight·loss / batch_size. A smaller last batch is divided by the same batch_size, so that
    every row has the same weight in an epoch.

    Args:
        setup: model, optimizer, rows, loss and recipe.
        observers: called after every step; their names are used in the state file.
        stop_after: how many steps to train; None trains all steps of the recipe.
        after_epoch: called with the epoch (counted from 1) at the end of every epoch; True ends the training.
        state: a file, and the steps after which the whole state of the training is written to it. If the file exists,
            the training resumes from it, with the same bits as without an interruption.

    Raises:
        InputError: the loss is NaN or infinite; the message names the epoch and the step.
    """
    model, optimizer, rows, recipe = setup.model, setup.optimizer, setup.rows, setup.recipe
    per_epoch = steps_per_epoch(rows.count, recipe.batch_size)
    last = recipe.steps if stop_after is None else stop_after
    torch.manual_seed(recipe.seed)
    step = 0
    if state is not None and state[0].exists():
        step = load_state(state[0], model, optimizer, observers)
    model.train()
    while step < last:
        epoch, skip = divmod(step, per_epoch)
        for batch in rows.batches(recipe.batch_size, recipe.seed, epoch, skip):
            loss = training_step(setup, batch.to(setup.device), step)
            step += 1
            if step % LOSS_CHECK_STEPS == 0 or step == last:
                _check_loss(loss, epoch, step)
            for observer in observers.values():
                observer.after_step(step)
            if after_epoch is not None and step % per_epoch == 0:
                _check_loss(loss, epoch, step)
                if after_epoch(epoch + 1):
                    return
                model.train()
            if state is not None and step in state[1]:
                save_state(state[0], step, model, optimizer, observers)
            if step == last:
                break


def training_step(setup: Setup, batch: Rows, step: int) -> Tensor:
    """Do optimizer step `step` (counted from 0) on one batch; returns the loss before the update."""
    optimizer, recipe = setup.optimizer, setup.recipe
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate_at(step)
    losses = setup.objective.losses(setup.model(batch.inputs), batch.labels)
    if batch.weights is not None:
        losses = losses * batch.weights
    loss = losses.sum() / recipe.batch_size
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _check_loss(loss: Tensor, epoch: int, step: int) -> None:
    if not torch.isfinite(loss):
        raise InputError(
            f"training: the loss became {loss.item()} in epoch {epoch + 1}, by step {step}",
            "Lower training.learning_rate, or look for extreme values in the features.",
        )
