"""Linear layers. Inputs are ``[batch, …, in]``; the dimensions between the first and the last are positions."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.products import aligned_empty
from pipeline.attribution.layers import ModuleRule, register


@register(nn.Linear)
class LinearRule(ModuleRule):
    kind = "linear"
    takes_positions = True

    def weight_shape(self, module: nn.Linear) -> tuple[int, int]:
        return module.out_features, module.in_features

    def weight_gradients(
        self,
        module: nn.Linear,  # noqa: ARG002 - the inputs say it all
        inputs: Tensor,
        output_gradients: Tensor,
        bias: bool,
    ) -> OuterProducts:
        return linear_gradients(inputs, output_gradients, bias)


def linear_gradients(inputs: Tensor, output_gradients: Tensor, bias: bool) -> OuterProducts:
    """Returns the per-example gradients of a product with a weight ``[out, in]``.

    Args:
        inputs: ``[batch, …, in]``.
        output_gradients: ``[batch, …, out]``.
        bias: whether a bias is trained.
    """
    positions = prod(inputs.shape[1:-1])
    flat = inputs.reshape(len(inputs), positions, inputs.shape[-1])
    outputs = output_gradients.reshape(len(inputs), positions, output_gradients.shape[-1])
    return OuterProducts(_with_ones(flat) if bias else flat, outputs)


def _with_ones(inputs: Tensor) -> Tensor:
    """Returns ``inputs`` ``[batch, positions, in]`` with one more input at the end: the bias's, which is always 1."""
    size = inputs.shape[2]
    found = aligned_empty((*inputs.shape[:2], size + 1), inputs)
    found[..., :size] = inputs
    found[..., size] = 1.0
    return found
