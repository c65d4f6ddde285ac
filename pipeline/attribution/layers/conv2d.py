"""Two-dimensional convolutions (zero padding, one group): a Linear layer at every place of the kernel."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.attribution.layers import register
from pipeline.attribution.patch_gradients import PatchGradients
from pipeline.attribution.patches import Kernel


@register(nn.Conv2d)
class Conv2dRule:
    kind = "conv2d"

    def supports(self, module: nn.Conv2d) -> bool:
        return module.groups == 1 and module.padding_mode == "zeros"

    def matrix_shape(self, module: nn.Conv2d, bias: bool) -> tuple[int, int]:
        height, width = module.kernel_size
        return module.out_channels, module.in_channels * height * width + bias

    def gradients(
        self, module: nn.Conv2d, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> PatchGradients:
        """Inputs ``[batch, channels, height, width]``; positions are the output's pixels."""
        height, width = output_gradients.shape[2:]
        kernel = Kernel(
            _pair(module.kernel_size),
            _pair(module.stride),
            _pair(module.dilation),
            _padding(module),
            (height, width),
            bias,
        )
        return PatchGradients(inputs, output_gradients.flatten(2).transpose(1, 2), kernel)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, top, bottom, as ``functional.pad`` takes it."""
    if module.padding == "valid":
        return 0, 0, 0, 0
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        top, left = (total // 2 for total in totals)
        return left, totals[1] - left, top, totals[0] - top
    top, left = (int(amount) for amount in module.padding)
    return left, left, top, top
