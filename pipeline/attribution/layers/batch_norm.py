"""The scale and shift of BatchNorm with running statistics; both covariances of the block are diagonal."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients, affine_gradients
from pipeline.attribution.layers import ModuleRule, register


@register(nn.BatchNorm1d, nn.BatchNorm2d)
class BatchNormRule(ModuleRule):
    kind = "batch_norm"
    diagonal_input = True
    diagonal_gradient = True

    def supports(self, module: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
        # Without running statistics, the output of a row depends on the other rows of its batch.
        return module.running_mean is not None and module.running_var is not None

    def weight_shape(self, module: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[int, int]:
        return module.num_features, 1

    def weight_gradients(
        self, module: nn.BatchNorm1d | nn.BatchNorm2d, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> DiagonalGradients:
        """``inputs`` and ``output_gradients`` are ``[batch, channels, …]``."""
        normalised = functional.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)
        shape = (*inputs.shape[:2], inputs[0, 0].numel() if len(inputs) else 1)
        return affine_gradients(normalised.reshape(shape), output_gradients.reshape(shape), bias)
