"""How patches under a convolution's kernel lie in its images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pipeline.attribution.gradients.products import aligned_empty


@dataclass(frozen=True)
class Kernel:
    """A convolution's geometry, each as (vertical, horizontal).

    Attributes:
        padding: zeros at the left, right, top and bottom, as ``functional.pad`` takes it.
        places: the output's height and width.
        bias: whether a last input that is always 1 stands for the bias.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    places: tuple[int, int]
    bias: bool

    def patches(self, images: Tensor, band: slice) -> Tensor:
        """What the kernel sees at the output's rows ``band``: ``[batch, positions, in]``.

        The inputs' order is (vertical, horizontal, channel, bias), in which channels-last images are copied in
        long runs: several times faster than unfolding. ``standard`` puts them in the weight's order.
        """
        rows = min(band.stop, self.places[0]) - band.start
        padded = functional.pad(images, self.padding).permute(0, 2, 3, 1).contiguous()
        padded = padded[:, band.start * self.stride[0] :]
        batch, channels = len(images), images.shape[1]
        to_batch, to_row, to_column, _ = padded.stride()
        (down, right), (spread_down, spread_right) = self.stride, self.dilation
        windows = padded.as_strided(
            (batch, rows, self.places[1], *self.size, channels),
            (to_batch, down * to_row, right * to_column, spread_down * to_row, spread_right * to_column, 1),
        )
        size = channels * self.size[0] * self.size[1]
        patches = aligned_empty((batch, rows * self.places[1], size + self.bias), images)
        split = patches[..., :size].view(batch, rows, self.places[1], *self.size, channels)
        split.copy_(windows)
        if self.bias:
            patches[..., size] = 1.0
        return patches

    def standard(self, values: Tensor) -> Tensor:
        """Numbers per input in the order of ``patches`` put in the weight's: channels first."""
        weights = values.shape[-1] - self.bias
        found = aligned_empty(values.shape, values)
        found[..., weights:] = values[..., weights:]
        channels = weights // (self.size[0] * self.size[1])
        moved = values[..., :weights].unflatten(-1, (*self.size, channels)).movedim(-1, -3)
        found[..., :weights].unflatten(-1, (channels, *self.size)).copy_(moved)
        return found

    def own(self, values: Tensor) -> Tensor:
        """The inverse of ``standard``."""
        weights = values.shape[-1] - self.bias
        found = aligned_empty(values.shape, values)
        found[..., weights:] = values[..., weights:]
        channels = weights // (self.size[0] * self.size[1])
        moved = values[..., :weights].unflatten(-1, (channels, *self.size)).movedim(-3, -1)
        found[..., :weights].unflatten(-1, (*self.size, channels)).copy_(moved)
        return found

    def convolved(self, images: Tensor, matrix: Tensor) -> Tensor:
        """The convolution with a filter ``[out, in]``: ``[batch, out, positions]``."""
        weight, bias = (matrix[:, :-1], matrix[:, -1]) if self.bias else (matrix, None)
        weight = weight.reshape(len(matrix), images.shape[1], *self.size)
        padded = functional.pad(images, self.padding)
        return functional.conv2d(padded, weight, bias, self.stride, 0, self.dilation).flatten(2)
