"""The covariance of a convolution's patches, computed from correlations of its images: no patch is formed.

Let the kernel move one pixel at a time. The block of A = Σ_places patch patchᵀ for two pixels of the kernel, at d and
d + lag, is Σ_p x[p + d] x[p + d + lag]ᵀ over all places p. Apart from the borders of the image, this sum depends on the
lag alone. A 3×3 kernel has 45 pairs of pixels but 13 lags, so one correlation per lag takes a third of the operations.

Near the borders, a pair of kernel pixels doesn't reach some lines and columns of the image. The products of these lines
and columns are subtracted from the correlation again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product as pairs_of

import torch
from torch import Tensor

from pipeline.attribution.gradients.patches import Kernel
from pipeline.attribution.gradients.products import SUMMED_ROWS, slices_of

# With fewer channels, the matrices of the products are too narrow to be fast, and the patches are small anyway.
_CHANNELS_AT_LEAST = 16
# The share of all pairs of kernel pixels that ``add_upper`` computes, since it leaves out mirrored blocks.
_SHARE_OF_PAIRS = 0.67

Lag = tuple[int, int]


def correlations_pay(kernel: Kernel, shape: Sequence[int]) -> bool:
    """Returns whether ``patch_covariance`` is possible, and cheaper than forming the patches.

    Args:
        kernel: the geometry of the convolution.
        shape: the shape of the images, ``[batch, channels, height, width]``.
    """
    if kernel.stride != (1, 1) or kernel.dilation != (1, 1) or shape[1] < _CHANNELS_AT_LEAST:
        return False
    (height, width), pixels = kernel.size, kernel.size[0] * kernel.size[1]
    correlated = len(_lags(kernel.size)) * (shape[2] + height - 1) * (shape[3] + width - 1)
    return correlated < _SHARE_OF_PAIRS * pixels**2 * kernel.places[0] * kernel.places[1]


def patch_covariance(images: Tensor, kernel: Kernel, row_scale: Tensor | None) -> Tensor:
    """Returns Σ s² a aᵀ over examples and places.

    Args:
        images: ``[batch, channels, height, width]``, unpadded.
        kernel: the geometry of the convolution; ``correlations_pay`` must hold for it.
        row_scale: s, ``[batch]``; None is 1 for every example.

    Returns:
        float64 ``[in, in]``, the inputs in the order of the weight.
    """
    channels, (height, width) = images.shape[1], kernel.size
    blocks = torch.zeros(
        height, width, height, width, channels, channels, dtype=torch.float64, device=images.device
    )
    sums = torch.zeros(images.shape[2], images.shape[3], channels, dtype=torch.float64, device=images.device)
    image_places = (images.shape[2] + height - 1) * (images.shape[3] + width - 1)
    for rows in slices_of(len(images), image_places, SUMMED_ROWS):
        part = images[rows]
        scale = None if row_scale is None else row_scale[rows, None, None, None].to(part)
        part = part if scale is None else part * scale
        _add_blocks(blocks, _Lines.of(part, kernel), kernel)
        sums += (part if scale is None else part * scale).double().sum(0).permute(1, 2, 0)
    for first, second in pairs_of(pairs_of(range(height), range(width)), repeat=2):
        if second < first:
            blocks[first][second] = blocks[second][first].T
    # (vertical, horizontal, …, channel, channel) -> (channel, vertical, horizontal, channel, …).
    weights = blocks.permute(4, 0, 1, 5, 2, 3).reshape(channels * height * width, -1)
    if not kernel.bias:
        return weights.contiguous()
    examples = len(images) if row_scale is None else row_scale.double().square().sum()
    return _with_bias(weights, _window_sums(sums, kernel), examples * kernel.places[0] * kernel.places[1])


@dataclass(frozen=True)
class _Lines:
    """Images with zeros after every line and after every image, as many as the longest lag.

    All pixels are treated as one long list. If the list is shifted by a lag, a pixel whose partner would be outside the
    image meets a zero.

    Attributes:
        padded: ``[batch, padded height, padded width, channels]``.
        height: the height of the images without padding.
        width: the width of the images without padding.
    """

    padded: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, images: Tensor, kernel: Kernel) -> _Lines:
        batch, channels, height, width = images.shape
        padded = images.new_zeros(batch, height + kernel.size[0] - 1, width + kernel.size[1] - 1, channels)
        padded[:, :height, :width] = images.permute(0, 2, 3, 1)
        return cls(padded, height, width)

    def correlation(self, lag: Lag) -> Tensor:
        """Returns Σ over all pixels p of x[p] x[p + lag]ᵀ: float64 ``[channels, channels]``."""
        pixels = self.padded.flatten(0, 2)
        shift = lag[0] * self.padded.shape[2] + lag[1]
        return (pixels[: len(pixels) - shift].T @ pixels[shift:]).double()

    def part(self, lag: Lag, lines: slice, columns: slice) -> Tensor:
        """Returns the same sum over the pixels of some lines and columns; shifted, these must stay in the image."""
        here = self.padded[:, lines, columns]
        there = self.padded[
            :,
            lines.start + lag[0] : lines.stop + lag[0],
            columns.start + lag[1] : columns.stop + lag[1],
        ]
        return (here.flatten(0, 2).T @ there.flatten(0, 2)).double()


def _add_blocks(blocks: Tensor, lines: _Lines, kernel: Kernel) -> None:
    """Adds the sum over the places of every pair of kernel pixels with first ≤ second to its block."""
    for lag in _lags(kernel.size):
        whole = lines.correlation(lag)
        inside = (_meeting(lines.height, lag[0]), _meeting(lines.width, lag[1]))

        @cache
        def part(top: int, left: int, lag: Lag = lag, inside: tuple[range, range] = inside) -> Tensor:
            """Returns the sum over one line and one column; −1 stands for all lines or all columns."""
            return lines.part(lag, _as_slice(inside[0], top), _as_slice(inside[1], left))

        for first in pairs_of(*map(range, kernel.size)):
            second = (first[0] + lag[0], first[1] + lag[1])
            if not (0 <= second[0] < kernel.size[0] and 0 <= second[1] < kernel.size[1]):
                continue
            top, left = kernel.padding[2], kernel.padding[0]
            unseen_lines = _outside(inside[0], first[0] - top, kernel.places[0])
            unseen_columns = _outside(inside[1], first[1] - left, kernel.places[1])
            found = whole.clone()
            for line in unseen_lines:
                found -= part(line, -1)
            for column in unseen_columns:
                found -= part(-1, column)
            for line, column in pairs_of(unseen_lines, unseen_columns):
                found += part(line, column)
            blocks[first][second] += found


def _lags(size: tuple[int, int]) -> list[Lag]:
    """Returns the differences between two kernel pixels. Of two opposite ones, only the one that goes forward."""
    height, width = size
    found = [(down, right) for down in range(height) for right in range(1 - width, width)]
    return [lag for lag in found if lag >= (0, 0)]


def _meeting(length: int, lag: int) -> range:
    """Returns the lines whose partner at distance ``lag`` is in the image as well."""
    return range(max(0, -lag), min(length, length - lag))


def _outside(lines: range, start: int, count: int) -> list[int]:
    """Returns those of ``lines`` that a kernel pixel doesn't visit. It visits ``count`` lines from ``start``."""
    return [line for line in lines if not start <= line < start + count]


def _as_slice(lines: range, one: int) -> slice:
    return slice(lines.start, max(lines.start, lines.stop)) if one < 0 else slice(one, one + 1)


def _window_sums(sums: Tensor, kernel: Kernel) -> Tensor:
    """Returns, per channel and kernel pixel, the sum over the places that the kernel pixel visits.

    The result is ``[channels · pixels]``.
    """
    padding = kernel.padding
    padded = sums.new_zeros(
        sums.shape[0] + padding[2] + padding[3], sums.shape[1] + padding[0] + padding[1], sums.shape[2]
    )
    padded[padding[2] : padding[2] + sums.shape[0], padding[0] : padding[0] + sums.shape[1]] = sums
    (height, width), (places_down, places_right) = kernel.size, kernel.places
    found = [
        padded[down : down + places_down, right : right + places_right].sum((0, 1))
        for down, right in pairs_of(range(height), range(width))
    ]
    return torch.stack(found, 1).flatten()


def _with_bias(weights: Tensor, window_sums: Tensor, places: float | Tensor) -> Tensor:
    size = len(weights)
    found = weights.new_empty(size + 1, size + 1)
    found[:size, :size] = weights
    found[:size, size] = found[size, :size] = window_sums
    found[size, size] = places
    return found
