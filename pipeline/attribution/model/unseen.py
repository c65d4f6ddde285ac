"""Looks for gradients that attribution doesn't see though it covers the layer.

A weight may be used outside its module's own call, as in ``inputs @ embedding.weight.T``, or replaced by another
tensor on the way. A backward pass to the weights themselves tells.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.attribution.model.capture import Inputs, capture
from pipeline.attribution.model.coverage import matrix_parameters
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.model.precision import matrix_products

# Of the largest number in a gradient; single precision and other orders of summation stay far below.
_TOLERANCE = 1e-2


def unseen_gradients(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names of covered parameters whose gradient isn't the sum of what attribution captures, for a few rows.

    Two forward and backward passes; the model's modes and gradients are put back.

    Raises:
        AttributionError: as ``capture.Capture``.
    """
    with matrix_products("float32"):
        with capture(model) as captured:
            outputs = captured.forward(inputs)
            weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
            totals = {name: gradients.total() for name, gradients in captured.gradients(outputs, weights)}
            missing = {layer.name: layer.shape for layer in captured.layers if layer.name not in totals}
        totals |= {name: outputs.new_zeros(shape) for name, shape in missing.items()}
        seen, actual = matrix_parameters(model, totals), _gradients(model, inputs, weights)
    return [name for name, gradient in seen.items() if _differ(gradient, actual[name])]


def _gradients(model: nn.Module, inputs: Inputs, weights: Tensor) -> dict[str, Tensor]:
    """Parameter -> gradient of Σ weights · outputs in evaluation mode."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with evaluation_mode(model):
        outputs: Tensor = model(inputs)
    found = torch.autograd.grad(outputs, list(named.values()), weights.to(outputs), allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(named.items(), found, strict=True)
    }


def _differ(first: Tensor, second: Tensor) -> bool:
    largest = float(torch.maximum(first.abs().max(), second.abs().max()))
    # Sums that cancel, such as those of a key's bias, are rounding errors.
    return float((first - second).abs().max()) > _TOLERANCE * largest and largest > _TOLERANCE**4
