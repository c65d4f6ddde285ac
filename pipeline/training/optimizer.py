"""Builds the optimizer of a recipe, and saves and restores its state as tensors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.training.recipe import Recipe

Kind = TypeVar("Kind", bound=Optimizer)
STEP = "step"
"""The state entry in which Adam counts its steps; torch keeps this entry on the CPU."""


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """The same optimizer without torch's hooks for `torch.compile`, which nothing here calls.

    At their first call, the hooks import the compiler. This takes 1.5 s and 75 MB in every process that trains.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ("add_param_group", "zero_grad", "step")}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(methods["step"])})


_SGD, _ADAM, _ADAMW = _without_compiler(SGD), _without_compiler(Adam), _without_compiler(AdamW)


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Torch's optimizer for all parameters: SGD and Adam have coupled weight decay, AdamW has decoupled."""
    parameters, rate, decay = model.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return _SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)
    kind = _ADAMW if recipe.optimizer == "adamw" else _ADAM
    return kind(parameters, lr=rate, betas=(recipe.momentum, recipe.beta2), weight_decay=decay)


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
