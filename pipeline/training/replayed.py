"""Repeats a training of the pipeline bit for bit: which trainings can be repeated, and a recorder for their steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.batchnorm import has_batchnorm
from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder, check_recordable
from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.training.optimizer import make_optimizer
from pipeline.training.recipe import make_recipe, steps_per_epoch
from pipeline.training.setup import Setup


class ReplayObserver:
    """A `ReplayRecorder` as an observer of a training whose rows are held in memory.

    The recorder has no state to resume from: after an interruption the recording starts over.
    """

    def __init__(self, setup: Setup, directory: Path, tail: float):
        self._rows, self._recipe = setup.rows, setup.recipe
        self._recorder = ReplayRecorder(
            setup.model,
            setup.optimizer,
            directory,
            steps=setup.recipe.steps,
            train_rows=setup.rows.count,
            tail=tail,
        )
        self._per_epoch = steps_per_epoch(setup.rows.count, setup.recipe.batch_size)
        self._order = torch.empty(0, dtype=torch.int64)

    def after_step(self, step: int) -> None:
        epoch, place = divmod(step - 1, self._per_epoch)
        if place == 0:
            self._order = self._rows.order(self._recipe.seed, epoch)
        size = self._recipe.batch_size
        self._recorder.step(self._order[place * size : (place + 1) * size], divisor=size)

    def state_tensors(self) -> dict[str, Tensor]:
        """Empty, because an interrupted recording starts over."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Do nothing, because `state_tensors` is empty."""


def check_same_order(config: AuditConfig, model: nn.Module) -> None:
    """Check that `verification.same_order` can leave rows out of a training whose batches stay.

    Raises:
        InputError: the model has BatchNorm. Rows of weight 0 would still enter the statistics of their batches.
    """
    if config.verification.same_order and has_batchnorm(model):
        raise InputError(
            "verification.same_order gives removed rows the weight 0 in their batches, and the model has BatchNorm, "
            "whose statistics would still count these rows",
            "Leave verification.same_order out, or use a model with GroupNorm or LayerNorm.",
        )


def check_replayable(config: AuditConfig, model: nn.Module, rows: Mapping[str, int], row_bytes: int) -> None:
    """Check that the main run can be repeated and differentiated, if `verification.unrolled` is set.

    Args:
        config: the config of the audit.
        model: the model of the config; the call leaves it in training mode.
        rows: how many rows each role has.
        row_bytes: the size of an encoded row.

    Raises:
        InputError: the rows are streamed, there are no validation rows, the model has BatchNorm, or the model is too
            large.
    """
    if not config.verification.unrolled:
        return
    training = config.training
    if not rows["validation"]:
        raise InputError(
            "verification.unrolled differentiates the validation loss, and there are no validation rows",
            "Give data.validation, or leave verification.unrolled out.",
        )
    if rows["train"] * row_bytes > training.memory_budget:
        raise InputError(
            f"verification.unrolled can't repeat a training whose rows are streamed: {rows['train']:,} encoded rows "
            f"take {rows['train'] * row_bytes:,} bytes, over training.memory_budget ({training.memory_budget:,})",
            "Raise training.memory_budget, or leave verification.unrolled out.",
        )
    recipe = make_recipe(training, rows["train"], training.seed)
    try:
        check_recordable(model.train(), make_optimizer(model, recipe), recipe.steps)
    except AttributionError as error:
        raise InputError(
            f"verification.unrolled: {error.message}",
            "Leave it out: such a training can't be repeated and differentiated exactly.",
        ) from error
