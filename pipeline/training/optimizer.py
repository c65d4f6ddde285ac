"""Builds the optimizer of a recipe, and saves and restores its state as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.training.recipe import Recipe

STEP = "step"
"""The state entry in which Adam counts its steps; torch keeps this entry on the CPU."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Torch's optimizer for all parameters: SGD and Adam have coupled weight decay, AdamW has decoupled."""
    parameters, rate, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return SGD(parameters, rate, momentum=recipe.momentum, weight_decay=decay)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(parameters, rate, betas=(recipe.momentum, recipe.beta2), weight_decay=decay)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `slot/parameter`, such as `momentum_buffer/0.weight`; empty before the first step."""
    return {
        f"{slot}/{name}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of `optimizer_tensors` into an optimizer."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        slot, _, name = key.partition("/")
        device = torch.device("cpu") if slot == STEP else parameters[name].device
        optimizer.state[parameters[name]][slot] = value.to(device)
