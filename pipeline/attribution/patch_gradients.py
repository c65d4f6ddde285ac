"""Per-example gradients of a convolution, with the patches under its kernel unfolded in tiles only.

An unfolded image takes kernel-size times its bytes. Here the image itself is kept; products with a filter are
a convolution with that filter, and everything else unfolds a few examples, or a band of one example's places,
at a time, within ``TILE_BYTES`` whatever the resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attribution import gradients as budgets
from pipeline.attribution.gradients import (
    DenseGradients,
    Eigenbasis,
    HeldGradients,
    LayerGradients,
    OuterProducts,
    rotate,
    rotate_factors,
    row_slices,
)
from pipeline.attribution.products import (
    add_upper,
    aligned_empty,
    covariance,
    inner_products,
    mirrored,
    same_values,
    slices_of,
)


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


@dataclass(frozen=True)
class PatchGradients(LayerGradients):
    """Gradients Σ_places g patchᵀ.

    Attributes:
        images: the layer's input ``[batch, channels, height, width]``.
        outputs: output gradients ``[batch, positions, out]``.
        kernel: how patches lie in the images.
    """

    images: Tensor
    outputs: Tensor
    kernel: Kernel

    @property
    def size_in(self) -> int:
        return self.images.shape[1] * self.kernel.size[0] * self.kernel.size[1] + self.kernel.bias

    @property
    def positions(self) -> int:
        return self.outputs.shape[1]

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.outputs.nbytes

    def with_inputs_of(self, other: HeldGradients) -> PatchGradients | None:
        if isinstance(other, PatchGradients) and same_values(self.images, other.images):
            return PatchGradients(other.images, self.outputs, self.kernel)
        return None

    def added(self, other: HeldGradients) -> PatchGradients:
        assert isinstance(other, PatchGradients)
        assert other.images is self.images
        return PatchGradients(self.images, self.outputs + other.outputs, self.kernel)

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        total = torch.zeros(self.size_in, self.size_in, dtype=torch.float64, device=self.images.device)
        for rows, part in self.tiles():
            inputs = part.inputs
            if row_scale is not None:
                inputs = inputs * row_scale[rows, None, None].to(inputs)
            add_upper(total, inputs.flatten(0, 1))
        standard = self.kernel.standard
        return standard(standard(mirrored(total)).T).contiguous()

    def gradient_covariance(self) -> Tensor:
        return covariance(self.outputs.flatten(0, 1))

    def squares(self, basis: Eigenbasis, squared_inputs: Tensor | None = None) -> Tensor:  # noqa: ARG002
        total = self._zeros(torch.float64)
        for rows in self._dense_slices():
            total += self.dense(rows, basis).square_().sum(0)
        return total

    def total(self) -> Tensor:
        total = self._zeros(torch.float64)
        for _, part in self.tiles():
            total += part.total()
        return self.kernel.standard(total).contiguous()

    def products(self, filters: Tensor) -> Tensor:
        if filters.dim() == 3:
            slices = row_slices(len(self.images), filters[0])
            parts = [filters.flatten(1) @ self.dense(rows).flatten(1).T for rows in slices]
            return torch.cat([filters.new_zeros(len(filters), 0), *parts], 1)
        found = [filters.new_zeros(0)]
        outputs = self.outputs.transpose(1, 2)
        for rows in slices_of(len(outputs), outputs[:1].nbytes, budgets.SLICE_BYTES):
            found.append(inner_products(self.kernel.convolved(self.images[rows], filters), outputs[rows]))
        return torch.cat(found)

    def matrices(self) -> Tensor:
        slices = self._dense_slices()
        return torch.cat([self._zeros()[None][:0], *(self.dense(rows) for rows in slices)])

    def compact(self) -> HeldGradients:
        size_out = self.outputs.shape[2]
        if self.size_in * size_out < self.positions * (self.size_in + size_out):
            return DenseGradients(self.matrices())
        return self._unfolded()

    def joined(self, others: Sequence[HeldGradients]) -> LayerGradients:
        parts = [other for other in others if isinstance(other, PatchGradients)]
        if not parts:
            return self
        return self._unfolded().joined([part._unfolded() for part in parts])

    def dense(self, rows: slice, basis: Eigenbasis | None = None) -> Tensor:
        """The gradients of ``rows`` as matrices ``[rows, out, in]``, in ``basis`` if one is given."""
        part = PatchGradients(self.images[rows], self.outputs[rows], self.kernel)
        if basis is not None and rotate_factors(self.positions, self.size_in, self.outputs.shape[2]):
            return part._unfolded().dense(slice(None), basis)
        matrices = aligned_empty((len(part.images), self.outputs.shape[2], self.size_in), self.images).zero_()
        for some, tile in part.tiles():
            matrices[some] += tile.dense(slice(None))
        if basis is None:
            return self.kernel.standard(matrices)
        assert basis.input is not None
        # Instead of the gradients, the basis is put in another order.
        return rotate(matrices, Eigenbasis(self.kernel.own(basis.input.T).T, basis.gradient))

    def tiles(self) -> Iterator[tuple[slice, OuterProducts]]:
        """(rows of the batch, gradients of some of their places), each within ``TILE_BYTES``."""
        height, width = self.kernel.places
        line_bytes = width * self.size_in * self.images.element_size()
        for rows in slices_of(len(self.images), height * line_bytes, budgets.TILE_BYTES):
            for band in slices_of(height, line_bytes, budgets.TILE_BYTES):
                places = slice(band.start * width, band.stop * width)
                patches = self.kernel.patches(self.images[rows], band)
                yield rows, OuterProducts(patches, self.outputs[rows, places])

    def _unfolded(self) -> OuterProducts:
        if len(self.images) == 0:
            return OuterProducts(self.images.new_zeros(0, self.positions, self.size_in), self.outputs)
        patches = self.kernel.patches(self.images, slice(0, self.kernel.places[0]))
        return OuterProducts(self.kernel.standard(patches), self.outputs)

    def _dense_slices(self) -> Iterator[slice]:
        return row_slices(len(self.images), self._zeros())

    def _zeros(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.images.new_zeros(self.outputs.shape[2], self.size_in, dtype=dtype)
