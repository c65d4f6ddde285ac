"""Per-example gradients of a convolution; the patches under its kernel are unfolded in tiles only.

An unfolded image takes as many times its bytes as the kernel has pixels. This form keeps the image itself. A product
with a filter is a convolution with that filter. Everything else unfolds a tile at a time: a few examples, or a band of
one example's places. A tile takes about ``TILE_BYTES``, whatever the resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients import outer_products as budgets
from pipeline.attribution.gradients.layer_gradients import (
    Eigenbasis,
    HeldGradients,
    LayerGradients,
    rotate,
    rotate_outputs,
)
from pipeline.attribution.gradients.outer_products import (
    DenseGradients,
    OuterProducts,
    filtered_slices,
    rotated_first,
    row_slices,
)
from pipeline.attribution.gradients.patch_covariance import correlations_pay, patch_covariance
from pipeline.attribution.gradients.patches import Kernel
from pipeline.attribution.gradients.products import (
    add_upper,
    aligned_empty,
    covariance,
    inner_products,
    mirrored,
    product,
    same_values,
    slices_of,
)


@dataclass(frozen=True)
class PatchGradients(LayerGradients):
    """Gradients Σ_places g patchᵀ.

    Attributes:
        images: the layer's inputs, ``[batch, channels, height, width]``.
        outputs: the output gradients g, ``[batch, positions, out]``.
        kernel: the geometry of the convolution.
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
        images, kernel = self.images, self.kernel
        if correlations_pay(kernel, images.shape):
            return patch_covariance(images, kernel, row_scale)
        total = torch.zeros(self.size_in, self.size_in, dtype=torch.float64, device=images.device)
        for rows, part in self.tiles():
            inputs = part.inputs
            if row_scale is not None:
                inputs = inputs * row_scale[rows, None, None].to(inputs)
            add_upper(total, inputs.flatten(0, 1))
        return kernel.standard(kernel.standard(mirrored(total)).T).contiguous()

    def gradient_covariance(self, widest: int | None = None) -> Tensor:
        return covariance(self.outputs.flatten(0, 1), widest)

    def squares(self, basis: Eigenbasis) -> Tensor:
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
            slices = filtered_slices(len(self.images), filters)
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

    def joined(self, others: Sequence[HeldGradients]) -> PatchGradients | OuterProducts:
        parts = [other for other in others if isinstance(other, PatchGradients)]
        if not parts:
            return self
        return self._unfolded().joined([part._unfolded() for part in parts])

    def dense(self, rows: slice, basis: Eigenbasis | None = None) -> Tensor:
        """Returns the gradients of ``rows`` as matrices ``[rows, out, in]``, rotated into ``basis`` if given."""
        part = PatchGradients(self.images[rows], self.outputs[rows], self.kernel)
        if basis is None:
            return self.kernel.standard(part._matrices())
        assert basis.input is not None
        outputs_first, inputs_first = rotated_first(self.positions, self.size_in, self.outputs.shape[2])
        if inputs_first:
            return part._unfolded().dense(slice(None), basis)
        # The basis is put in the order of ``Kernel.patches``, which is cheaper than reordering the gradients.
        basis = Eigenbasis(self.kernel.own(basis.input.T).T, basis.gradient)
        if not outputs_first:
            return rotate(part._matrices(), basis)
        assert basis.input is not None
        rotated = PatchGradients(part.images, rotate_outputs(part.outputs, basis), self.kernel)
        return product(rotated._matrices(), basis.input)

    def _matrices(self) -> Tensor:
        """Returns every example's G with its inputs in the order of ``Kernel.patches``."""
        matrices = aligned_empty((len(self.images), self.outputs.shape[2], self.size_in), self.images).zero_()
        for rows, tile in self.tiles():
            if tile.positions == self.positions:
                torch.bmm(tile.outputs.transpose(1, 2), tile.inputs, out=matrices[rows])
            else:
                matrices[rows] += tile.dense(slice(None))
        return matrices

    def tiles(self) -> Iterator[tuple[slice, OuterProducts]]:
        """Yields (rows of the batch, gradients of these rows at some places of the kernel).

        The inputs are in the order of ``Kernel.patches``. A tile stays within ``TILE_BYTES``, but has at least one line
        of places of one example.
        """
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
