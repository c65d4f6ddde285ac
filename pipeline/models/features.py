"""Penultimate features: the input of a model's last Linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def penultimate_features(model: nn.Module, inputs: Tensor | dict[str, Tensor]) -> Tensor:
    """The input of the Linear that is called last, float32 `[rows, width]`; the outputs if there is no Linear."""
    return features_and_outputs(model, inputs)[0]


def features_and_outputs(model: nn.Module, inputs: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The penultimate features and the outputs `[rows, outputs]`, without gradients; leaves the model in eval mode.

    The features are a tensor of their own, whatever is done with the outputs.
    """
    seen: list[Tensor] = []

    def remember(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen[:] = [arguments[0]]

    hooks = [m.register_forward_pre_hook(remember) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        with torch.no_grad():
            outputs = model.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return (seen[0] if seen else outputs).flatten(1).float().detach(), outputs
