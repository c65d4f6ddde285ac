"""Finds covered layers whose gradients attribution doesn't capture completely.

A weight may be used outside the call of its module, as in ``inputs @ embedding.weight.T``, or be replaced by another
tensor during the forward pass. A backward pass to the weights themselves shows this.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.attribution.model.calls import Inputs, predict
from pipeline.attribution.model.capture import capture
from pipeline.attribution.model.coverage import matrix_parameters
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.model.precision import matrix_products

# The largest difference that is accepted, as a share of a gradient's largest number. The differences from single
# precision and from other orders of summation are far smaller.
_TOLERANCE = 1e-2
# A gradient below this share of the other gradients of its layer counts as 0.
_ROUNDING = 1e-5


def unseen_gradients(model: nn.Module, inputs: Inputs) -> list[str]:
    """Compares the gradients that attribution captures with those of a plain backward pass, on a few rows.

    This takes two forward and two backward passes. The model's modes are restored, and its gradients aren't changed.

    Args:
        model: the model.
        inputs: the inputs of a few rows.

    Returns:
        The names of covered parameters whose gradient isn't the sum of the captured gradients.

    Raises:
        AttributionError: as ``capture`` and ``Capture.forward``.
    """
    with matrix_products("float32"):
        with capture(model) as captured:
            outputs = captured.forward(inputs)
            weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
            totals = {name: gradients.total() for name, gradients in captured.gradients(outputs, weights)}
            missing = {layer.name: layer.shape for layer in captured.layers if layer.name not in totals}
        totals |= {name: outputs.new_zeros(shape) for name, shape in missing.items()}
        seen, actual = matrix_parameters(model, totals), _gradients(model, inputs, weights)
    size = {
        name: float(gradient.abs().max()) if gradient.numel() else 0.0 for name, gradient in actual.items()
    }
    beside = {
        name: max(size[piece.parameter] for piece in layer.pieces)
        for layer in captured.layers
        for name in (piece.parameter for piece in layer.pieces)
    }
    return [name for name, gradient in seen.items() if _differ(gradient, actual[name], beside.get(name, 0.0))]


def _gradients(model: nn.Module, inputs: Inputs, weights: Tensor) -> dict[str, Tensor]:
    """Returns parameter -> gradient of Σ weights · outputs in evaluation mode."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with evaluation_mode(model):
        outputs = predict(model, inputs)
    total = (outputs * weights.to(outputs)).sum()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient.to_dense()
        for (name, p), gradient in zip(named.items(), found, strict=True)
    }


def _differ(first: Tensor, second: Tensor, beside: float) -> bool:
    """Returns whether two gradients differ; ``beside`` is the largest number of the gradients of their layer."""
    largest = float(torch.maximum(first.abs().max(), second.abs().max()))
    # Gradients that cancel to 0, such as that of a key's bias in attention or of a bias before a norm, consist of the
    # rounding errors of numbers that are as large as the layer's other gradients.
    nothing = max(_TOLERANCE**4, _ROUNDING * beside)
    return float((first - second).abs().max()) > _TOLERANCE * largest and largest > nothing
