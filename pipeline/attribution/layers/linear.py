"""Linear layers: inputs ``[batch, …, in]`` of any rank; the dimensions in between are positions."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pipeline.attribution.gradients import OuterProducts
from pipeline.attribution.layers import register
from pipeline.attribution.products import aligned_empty


@register(nn.Linear)
class LinearRule:
    kind = "linear"

    def supports(self, module: nn.Linear) -> bool:  # noqa: ARG002 - the protocol's signature
        return True

    def matrix_shape(self, module: nn.Linear, bias: bool) -> tuple[int, int]:
        return module.out_features, module.in_features + bias

    def gradients(
        self, module: nn.Linear, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> OuterProducts:
        positions = prod(inputs.shape[1:-1])
        flat = inputs.reshape(len(inputs), positions, module.in_features)
        outputs = output_gradients.reshape(len(inputs), positions, module.out_features)
        return OuterProducts(with_ones(flat) if bias else flat, outputs)


def with_ones(inputs: Tensor) -> Tensor:
    """``[batch, positions, in]`` with a last input that is always 1, the bias's."""
    size = inputs.shape[2]
    found = aligned_empty((*inputs.shape[:2], size + 1), inputs)
    found[..., :size] = inputs
    found[..., size] = 1.0
    return found
