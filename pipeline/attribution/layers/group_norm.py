"""The scale and shift of GroupNorm; both covariances of the block are diagonal."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients, affine_gradients
from pipeline.attribution.layers import ModuleRule, register


@register(nn.GroupNorm)
class GroupNormRule(ModuleRule):
    kind = "group_norm"
    diagonal_input = True
    diagonal_gradient = True

    def weight_shape(self, module: nn.GroupNorm) -> tuple[int, int]:
        return module.num_channels, 1

    def weight_gradients(
        self, module: nn.GroupNorm, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> DiagonalGradients:
        """``inputs`` and ``output_gradients`` are ``[batch, channels, …]``."""
        normalised = functional.group_norm(inputs, module.num_groups, eps=module.eps)
        shape = (*inputs.shape[:2], prod(inputs.shape[2:]))
        return affine_gradients(normalised.reshape(shape), output_gradients.reshape(shape), bias)
