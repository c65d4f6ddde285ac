"""The patches of an image that a convolution's kernel covers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pipeline.attribution.gradients.products import aligned_empty


@dataclass(frozen=True)
class Kernel:
    """The geometry of a convolution. Pairs are (vertical, horizontal).

    Attributes:
        size: the kernel's size in pixels.
        stride: the distance between two neighbouring places of the kernel, in pixels.
        dilation: the distance between two neighbouring pixels of the kernel, in pixels of the image.
        padding: the numbers of zeros at the left, right, top and bottom, in the order of ``functional.pad``.
        places: the height and width of the output.
        bias: whether a patch has one more input at the end, which is always 1 and stands for the bias.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    places: tuple[int, int]
    bias: bool

    def patches(self, images: Tensor, band: slice) -> Tensor:
        """Returns the patches at the places of some lines of the output.

        The inputs are in the order (vertical, horizontal, channel, bias). In this order, channels-last images are
        copied in long runs, which is several times faster than ``functional.unfold``. ``standard`` puts the inputs in
        the order of the weight.

        Args:
            images: ``[batch, channels, height, width]``, unpadded.
            band: the lines of the output.

        Returns:
            ``[batch, positions, in]``.
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
        """Returns ``values`` ``[…, in]`` in the order of the weight, given in the order of ``patches``.

        The order of the weight is (channel, vertical, horizontal, bias).
        """
        weights = values.shape[-1] - self.bias
        found = aligned_empty(values.shape, values)
        found[..., weights:] = values[..., weights:]
        channels = weights // (self.size[0] * self.size[1])
        moved = values[..., :weights].unflatten(-1, (*self.size, channels)).movedim(-1, -3)
        found[..., :weights].unflatten(-1, (channels, *self.size)).copy_(moved)
        return found

    def own(self, values: Tensor) -> Tensor:
        """Returns ``values`` ``[…, in]`` in the order of ``patches``: the inverse of ``standard``."""
        weights = values.shape[-1] - self.bias
        found = aligned_empty(values.shape, values)
        found[..., weights:] = values[..., weights:]
        channels = weights // (self.size[0] * self.size[1])
        moved = values[..., :weights].unflatten(-1, (channels, *self.size)).movedim(-3, -1)
        found[..., :weights].unflatten(-1, (*self.size, channels)).copy_(moved)
        return found

    def convolved(self, images: Tensor, matrix: Tensor) -> Tensor:
        """Returns the convolution of ``images`` with a filter ``[out, in]``: ``[batch, out, positions]``."""
        weight, bias = (matrix[:, :-1], matrix[:, -1]) if self.bias else (matrix, None)
        weight = weight.reshape(len(matrix), images.shape[1], *self.size)
        padded = functional.pad(images, self.padding)
        return functional.conv2d(padded, weight, bias, self.stride, 0, self.dilation).flatten(2)
