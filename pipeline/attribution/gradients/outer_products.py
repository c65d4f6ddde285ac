"""Per-example gradients as sums of outer products, and as dense matrices where the matrices are smaller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import (
    Eigenbasis,
    HeldGradients,
    LayerGradients,
    rotate,
    rotate_outputs,
)
from pipeline.attribution.gradients.products import (
    CACHE_BYTES,
    SUMMED_ROWS,
    aligned,
    aligned_cat,
    aligned_empty,
    answers_at_once,
    covariance,
    inner_products,
    product,
    same_values,
    slices_of,
)

# The most bytes of a slice of dense per-example gradients. Several operations read a slice in turn, on a CPU from its
# cache: with 32 MB, forming the gradients took twice as long.
SLICE_BYTES = 4 << 20


# The same on a GPU, which is faster with large slices.
GPU_SLICE_BYTES = 256 << 20


# The most bytes of dense gradients that are multiplied by many filters at a time.
FILTERED_BYTES = 12 << 20


# The most bytes of unfolded patches at a time. They are read right after they are written, from the cache that the
# cores of a CPU share.
TILE_BYTES = 4 << 20


@dataclass(frozen=True)
class OuterProducts(LayerGradients):
    """Gradients Σ_positions g aᵀ, kept as their factors.

    Attributes:
        inputs: the layer's inputs a, ``[batch, positions, in]``.
        outputs: the output gradients g, ``[batch, positions, out]``.
    """

    inputs: Tensor
    outputs: Tensor

    @property
    def size_in(self) -> int:
        return self.inputs.shape[2]

    @property
    def positions(self) -> int:
        return self.inputs.shape[1]

    @property
    def nbytes(self) -> int:
        return self.inputs.nbytes + self.outputs.nbytes

    def with_inputs_of(self, other: HeldGradients) -> OuterProducts | None:
        if isinstance(other, OuterProducts) and same_values(self.inputs, other.inputs):
            return OuterProducts(other.inputs, self.outputs)
        return None

    def added(self, other: HeldGradients) -> OuterProducts:
        assert isinstance(other, OuterProducts)
        assert other.inputs is self.inputs
        return OuterProducts(self.inputs, self.outputs + other.outputs)

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        values = self.inputs
        if row_scale is not None:
            values = values * row_scale[:, None, None].to(values)
        if self.positions > 1:
            # Positions that the loss doesn't depend on, such as masked ones, are part of no gradient.
            return covariance(seen_only(values, self.outputs.ne(0).any(2)))
        return covariance(values.flatten(0, 1))

    def gradient_covariance(self, widest: int | None = None) -> Tensor:
        return covariance(self.outputs.flatten(0, 1), widest)

    def merged(self) -> OuterProducts:
        """Returns the same gradients with one position, if the output gradients are equal at all positions.

        Then Σ g aᵀ = g (Σ a)ᵀ. This is the case in the last layer before a mean over positions. Otherwise, and where
        the question would make the host wait, the gradients are returned unchanged.
        """
        first = self.outputs[:, :1]
        if self.positions == 1 or not answers_at_once(first):
            return self
        if not same_values(self.outputs, first.expand_as(self.outputs)):
            return self
        return OuterProducts(self.inputs.sum(1, keepdim=True), first.contiguous())

    def squares(self, basis: Eigenbasis) -> Tensor:
        merged = self.merged()
        if merged.positions == 1:
            return merged.squares_of(merged.squared_outputs(basis), basis)
        total = self.inputs.new_zeros(self.outputs.shape[2], self.inputs.shape[2], dtype=torch.float64)
        for rows in row_slices(len(self.inputs), total):
            total += self.dense(rows, basis).square_().sum(0)
        return total

    def squared_outputs(self, basis: Eigenbasis) -> Tensor:
        """Returns g̃² = (Q_Sᵀ g)², ``[batch, out]``, for gradients with one position."""
        rotated = rotate_outputs(self.outputs[:, 0], basis)
        return rotated.square() if rotated.data_ptr() == self.outputs.data_ptr() else rotated.square_()

    def squares_of(self, squared_outputs: Tensor, basis: Eigenbasis) -> Tensor:
        """Returns Σ over examples of (g̃ ãᵀ)², for gradients with one position, as the matrix product (g̃²)ᵀ ã².

        Args:
            squared_outputs: g̃², ``[batch, out]``.
            basis: the eigenbasis that ã = Q_Aᵀ a is computed with.

        Returns:
            float64 ``[out, in]``.
        """
        inputs = self.inputs[:, 0]
        squared = inputs.square() if basis.input is None else product(inputs, basis.input).square_()
        return product(squared_outputs.T, squared).double()

    def total(self) -> Tensor:
        inputs, outputs = self.inputs.flatten(0, 1), self.outputs.flatten(0, 1)
        total = inputs.new_zeros(outputs.shape[1], inputs.shape[1], dtype=torch.float64)
        for start in range(0, len(inputs), SUMMED_ROWS):
            rows = slice(start, start + SUMMED_ROWS)
            total += product(outputs[rows].T, inputs[rows])
        return total

    def products(self, filters: Tensor) -> Tensor:
        if filters.dim() == 2:
            matrix = aligned(filters)
            row_bytes = self.positions * matrix.shape[1] * matrix.element_size()
            slices = slices_of(len(self.inputs), row_bytes, CACHE_BYTES)
            found = [
                inner_products(product(self.outputs[rows], matrix), self.inputs[rows]) for rows in slices
            ]
            return torch.cat([filters.new_zeros(0), *found])
        merged = self.merged()
        if merged.positions == 1:  # a sixth of the time of dense gradients
            return torch.stack([merged.products(one) for one in filters])
        slices = filtered_slices(len(self.inputs), filters)
        parts = [filters.flatten(1) @ self.dense(rows).flatten(1).T for rows in slices]
        return torch.cat([filters.new_zeros(len(filters), 0), *parts], 1)

    def matrices(self) -> Tensor:
        return self.dense(slice(None))

    def compact(self) -> HeldGradients:
        dense_numbers = self.inputs.shape[2] * self.outputs.shape[2]
        # The choice depends on the shapes alone, so all checkpoints get the same form and can be joined.
        if dense_numbers >= self.positions * (self.inputs.shape[2] + self.outputs.shape[2]):
            return self.merged()
        return DenseGradients(self.matrices())

    def joined(self, others: Sequence[HeldGradients]) -> OuterProducts:
        parts = [self, *(other for other in others if isinstance(other, OuterProducts))]
        if len(parts) == 1:
            return self
        return OuterProducts(aligned_cat([p.inputs for p in parts]), torch.cat([p.outputs for p in parts], 1))

    def rotated(self, basis: Eigenbasis) -> OuterProducts:
        """Returns the gradients with both factors rotated into the eigenbasis."""
        inputs = self.inputs if basis.input is None else product(self.inputs, basis.input)
        return OuterProducts(inputs, rotate_outputs(self.outputs, basis))

    def in_precision(self, dtype: torch.dtype) -> OuterProducts:
        """Returns the same gradients with factors of this dtype."""
        return OuterProducts(self.inputs.to(dtype), self.outputs.to(dtype))

    def sliced(self, rows: slice) -> OuterProducts:
        """Returns the gradients of some examples."""
        return OuterProducts(self.inputs[rows], self.outputs[rows])

    def dense(self, rows: slice, basis: Eigenbasis | None = None) -> Tensor:
        """Returns the gradients of ``rows`` as matrices ``[rows, out, in]``, rotated into ``basis`` if given."""
        part = self.sliced(rows)
        if basis is None:
            return part.outputs.transpose(1, 2) @ part.inputs
        inputs, outputs = part.inputs, part.outputs
        outputs_first, inputs_first = rotated_first(self.positions, inputs.shape[2], outputs.shape[2])
        if outputs_first:
            outputs = rotate_outputs(outputs, basis)
        if inputs_first and basis.input is not None:
            inputs = product(inputs, basis.input)
        matrices = _outer_sums(outputs, inputs)
        if not outputs_first and basis.gradient.dim() == 2:
            matrices = basis.gradient.T @ matrices
        return matrices if inputs_first or basis.input is None else product(matrices, basis.input)


@dataclass(frozen=True)
class DenseGradients(HeldGradients):
    """Gradients as matrices ``[batch, out, in]``: the compact form where the factors take more numbers.

    Attributes:
        matrices: ``[batch, out, in]``.
    """

    matrices: Tensor

    @property
    def nbytes(self) -> int:
        return self.matrices.nbytes

    def joined(self, others: Sequence[HeldGradients]) -> DenseGradients:
        parts = [other.matrices for other in others if isinstance(other, DenseGradients)]
        return DenseGradients(sum(parts, self.matrices)) if parts else self

    def dense(self, rows: slice, basis: Eigenbasis | None = None) -> Tensor:
        """Returns the gradients of ``rows`` as matrices ``[rows, out, in]``, rotated into ``basis`` if given."""
        return self.matrices[rows] if basis is None else rotate(self.matrices[rows], basis)


def seen_only(values: Tensor, seen: Tensor) -> Tensor:
    """Returns vectors whose sum of outer products is that of the vectors that ``seen`` selects.

    Where a selection would make the host wait for their number, the other vectors are set to 0.

    Args:
        values: ``[batch, positions, size]``.
        seen: bool ``[batch, positions]``.

    Returns:
        ``[vectors, size]``.
    """
    if not answers_at_once(values):
        return (values * seen[..., None]).flatten(0, 1)
    return values.flatten(0, 1) if bool(seen.all()) else values[seen]


def rotated_first(positions: int, size_in: int, size_out: int) -> tuple[bool, bool]:
    """Returns which factors to rotate into the eigenbasis before their outer products are summed.

    A factor is rotated first if that takes fewer operations than rotating the summed matrix from that side.

    Args:
        positions: the number of positions of an example.
        size_in: the columns of the matrix.
        size_out: the rows of the matrix.

    Returns:
        (whether to rotate the output gradients first, whether to rotate the inputs first).
    """
    return positions <= size_in, positions <= size_out


def _outer_sums(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Returns Σ over positions of g aᵀ: ``[batch, out, in]`` with aligned rows."""
    found = aligned_empty((len(outputs), outputs.shape[2], inputs.shape[2]), inputs)
    return torch.bmm(outputs.transpose(1, 2), inputs, out=found)


def filtered_slices(batch: int, filters: Tensor) -> Iterator[slice]:
    """Yields slices of ``batch`` rows whose matrices are multiplied by several filters ``[filters, out, in]``.

    Every slice reads all filters. So a slice may take as many bytes as they do, up to ``FILTERED_BYTES``: with fewer
    than about 30 rows the product runs at half the speed (measured). The slices are equally large.
    """
    budget = max(GPU_SLICE_BYTES if filters.is_cuda else SLICE_BYTES, min(filters.nbytes, FILTERED_BYTES))
    slices = -(-batch // max(1, budget // filters[0].nbytes))
    return slices_of(batch, 1, max(1, -(-batch // max(1, slices))))


def row_slices(batch: int, matrix: Tensor) -> Iterator[slice]:
    """Yields slices of ``batch`` rows. One matrix like ``matrix`` per row of a slice fits the budget of the device."""
    return slices_of(batch, matrix.nbytes, GPU_SLICE_BYTES if matrix.is_cuda else SLICE_BYTES)
