"""Gradients of convolutions of one and two dimensions: a convolution is a Linear layer at every place of its kernel.

A grouped convolution is treated as several small convolutions side by side. If the padding isn't zeros, the images are
padded first, and the kernel then has no padding of its own.
"""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.gradients.grouped_gradients import GroupedGradients
from pipeline.attribution.gradients.layer_gradients import LayerGradients
from pipeline.attribution.gradients.patch_gradients import PatchGradients
from pipeline.attribution.gradients.patches import Kernel

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d


def convolution_shape(module: Convolution) -> tuple[int, int]:
    """Returns (out, in) of the weight as a matrix; ``in`` counts the inputs of one group."""
    return module.out_channels, module.weight[0].numel()


def convolution_gradients(
    module: Convolution, inputs: Tensor, output_gradients: Tensor, bias: bool
) -> LayerGradients:
    """Returns the per-example gradients of a convolution; positions are the pixels of its output.

    A sequence is treated as an image of one line.

    Args:
        module: the convolution.
        inputs: ``[batch, channels, length]`` or ``[batch, channels, height, width]``.
        output_gradients: the same number of dimensions, with the channels and size of the output.
        bias: whether a bias is trained.
    """
    padding = _padding_of(module)
    if module.padding_mode != "zeros":
        inputs = functional.pad(inputs, padding, mode=module.padding_mode)
        padding = [0] * len(padding)
    geometry = list(zip(module.kernel_size, module.stride, module.dilation, strict=True))
    if len(geometry) == 1:
        inputs, output_gradients = inputs.unsqueeze(2), output_gradients.unsqueeze(2)
        geometry, padding = [(1, 1, 1), *geometry], [*padding, 0, 0]
    size, stride, dilation = ((down, right) for down, right in zip(*geometry, strict=True))
    left, right, top, bottom = padding
    places = (output_gradients.shape[2], output_gradients.shape[3])
    kernel = Kernel(size, stride, dilation, (left, right, top, bottom), places, bias)
    if module.groups == 1:
        return PatchGradients(inputs, output_gradients.flatten(2).transpose(1, 2), kernel)
    count = len(inputs) * module.groups
    images = inputs.reshape(count, inputs.shape[1] // module.groups, *inputs.shape[2:])
    outputs = output_gradients.reshape(count, module.out_channels // module.groups, places[0] * places[1])
    return GroupedGradients(PatchGradients(images, outputs.transpose(1, 2), kernel), module.groups)


def _padding_of(module: Convolution) -> list[int]:
    """Returns the padding before and after each dimension, the last dimension first, as ``functional.pad`` takes it."""
    found: list[int] = []
    for place in reversed(range(len(module.kernel_size))):
        if module.padding == "valid":
            found += [0, 0]
        elif module.padding == "same":
            total = module.dilation[place] * (module.kernel_size[place] - 1)
            found += [total // 2, total - total // 2]
        else:
            found += [int(module.padding[place])] * 2
    return found
