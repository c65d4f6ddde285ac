"""The scale and shift of LayerNorm, and the scale of RMSNorm; both covariances of the blocks are diagonal."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients, affine_gradients
from pipeline.attribution.layers import ModuleRule, register


@register(nn.LayerNorm)
class LayerNormRule(ModuleRule):
    kind = "layer_norm"
    diagonal_input = True
    diagonal_gradient = True
    takes_positions = True

    def weight_shape(self, module: nn.LayerNorm | nn.RMSNorm) -> tuple[int, int]:
        return prod(module.normalized_shape), 1

    def normalised(self, module: nn.LayerNorm, inputs: Tensor) -> Tensor:
        """Returns the normalised inputs, before scale and shift, in the shape of ``inputs``."""
        return functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)

    def weight_gradients(
        self, module: nn.LayerNorm, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> DiagonalGradients:
        """``inputs`` and ``output_gradients`` are ``[batch, …, *normalized_shape]``.

        The dimensions between the batch and ``normalized_shape`` are positions.
        """
        size = prod(module.normalized_shape)
        shape = (len(inputs), prod(inputs.shape[1:]) // size, size)
        normalised = self.normalised(module, inputs).reshape(shape)
        return affine_gradients(normalised.mT, output_gradients.reshape(shape).mT, bias)


@register(nn.RMSNorm)
class RMSNormRule(LayerNormRule):
    kind = "rms_norm"

    def normalised(self, module: nn.RMSNorm, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return functional.rms_norm(inputs, module.normalized_shape, eps=module.eps)
