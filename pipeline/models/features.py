"""The penultimate layer: what a model has made of a row just before its last Linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def penultimate_features(model: nn.Module, inputs: Tensor | dict[str, Tensor]) -> Tensor:
    """float32 `[rows, width]`: the input of the Linear that is called last; the outputs if there is no Linear."""
    return features_and_outputs(model, inputs)[0]


def features_and_outputs(model: nn.Module, inputs: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The penultimate features, and the model's outputs `[rows, outputs]`; in eval mode, without gradients."""
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
    return (seen[0] if seen else outputs).flatten(1).float(), outputs
