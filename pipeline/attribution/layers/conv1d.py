"""Convolutions over sequences; ``convolution.py`` has the mathematics."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.attribution.gradients.layer_gradients import LayerGradients
from pipeline.attribution.layers import ModuleRule, register
from pipeline.attribution.layers.convolution import convolution_gradients, convolution_shape


@register(nn.Conv1d)
class Conv1dRule(ModuleRule):
    kind = "conv1d"

    def weight_shape(self, module: nn.Conv1d) -> tuple[int, int]:
        return convolution_shape(module)

    def weight_gradients(
        self, module: nn.Conv1d, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> LayerGradients:
        """``inputs`` and ``output_gradients`` are ``[batch, channels, length]``."""
        return convolution_gradients(module, inputs, output_gradients, bias)
