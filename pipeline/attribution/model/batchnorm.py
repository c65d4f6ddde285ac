"""BatchNorm statistics for averaged weights: these aren't the mean of the statistics of the weights averaged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.calls import Inputs, predict, row_count
from pipeline.attribution.model.modes import evaluation_mode


def has_batchnorm(model: nn.Module) -> bool:
    """Returns whether any module keeps running BatchNorm statistics."""
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())


def check_running_statistics(model: nn.Module) -> None:
    """Checks that every BatchNorm module has running statistics, so that rows don't depend on each other.

    Raises:
        AttributionError: a module takes its statistics from the batch even in evaluation mode.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not module.track_running_stats:
            raise AttributionError(
                f"Layer {name!r} is BatchNorm without running statistics: rows of a batch depend on each other.",
                "Train with track_running_stats=True, or with GroupNorm or LayerNorm.",
            )


def reestimate_batchnorm(model: nn.Module, batches: Iterable[Inputs]) -> None:
    """Sets the running BatchNorm statistics to their means over batches, at the model's present weights.

    Only the BatchNorm modules are in training mode during this. Modes and momenta are restored. A later batch of one
    row is skipped, because one row has no variance.

    Args:
        model: changed in place.
        batches: the inputs of the batches.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluation_mode(model), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative mean
                norm.training = True
            for place, inputs in enumerate(batches):
                if place == 0 or row_count(inputs) > 1:
                    predict(model, inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
