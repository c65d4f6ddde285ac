"""The training loop: one optimizer step a batch, observers that watch every step, states that can be resumed."""

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
"""A loss is looked at this often, since looking makes a GPU wait."""


def train(
    setup: Setup,
    observers: dict[str, Observer],
    *,
    stop_after: int | None = None,
    after_epoch: Callable[[int], None] | None = None,
    state: tuple[Path, set[int]] | None = None,
) -> None:
    """Train the model in place for the recipe's steps, or the first `stop_after` of them.

    `after_epoch(epoch)` is called at the end of every epoch, counted from 1. `state` is a file and the steps after
    which everything is written to it; if the file exists, training goes on from there, bit for bit.

    A step's loss is Σ weight·loss / batch_size, also for a last, smaller batch, so that every row has the same
    weight in an epoch.

    Raises InputError, with the epoch and the step, when the loss is NaN or infinite.
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
                check_loss(loss, epoch, step)
            for observer in observers.values():
                observer.after_step(step)
            if after_epoch is not None and step % per_epoch == 0:
                check_loss(loss, epoch, step)
                after_epoch(epoch + 1)
                model.train()
            if state is not None and step in state[1]:
                save_state(state[0], step, model, optimizer, observers)
            if step == last:
                break


def training_step(setup: Setup, batch: Rows, step: int) -> Tensor:
    """One update by the recipe's learning rate of step `step` (counted from 0); returns the loss."""
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


def check_loss(loss: Tensor, epoch: int, step: int) -> None:
    if not torch.isfinite(loss):
        raise InputError(
            f"training: the loss became {loss.item()} in epoch {epoch + 1}, by step {step}",
            "Lower training.learning_rate, or look for extreme values in the features.",
        )
