"""Filters of queries whose loss gradient in a layer is one outer product; no matrix is formed for a query.

In the eigenbasis, the filter of such a query is F_r(Λ) ∘ g̃ ãᵀ. Its inner product with the gradient g̃' ã'ᵀ of a row is
(g̃ ∘ g̃')ᵀ F_r(Λ) (ã ∘ ã'). This takes as many operations as with a dense filter. But a query keeps in + out numbers
instead of in · out, it is rotated as two vectors, and nothing is rotated back: the rows are rotated instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.gradients.layer_gradients import (
    Eigenbasis,
    LayerGradients,
    rotate_back,
    rotate_outputs,
)
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.products import CACHE_BYTES, aligned, product, slices_of


@dataclass(frozen=True)
class VectorFilters:
    """One filter Q_S [W ∘ g̃ ãᵀ] Q_Aᵀ per query.

    Attributes:
        inputs: ã, ``[queries, in]``.
        outputs: g̃, ``[queries, out]``.
        weights: W = F_r(Λ), ``[out, in]``.
        basis: Q_A and Q_S.
    """

    inputs: Tensor
    outputs: Tensor
    weights: Tensor
    basis: Eigenbasis

    @property
    def nbytes(self) -> int:
        return self.inputs.nbytes + self.outputs.nbytes

    def to(self, like: Tensor) -> VectorFilters:
        """Returns the same filters in the dtype and on the device of ``like``."""
        sides = self.inputs.to(like), self.outputs.to(like)
        return VectorFilters(*sides, aligned(self.weights.to(like)), self.basis.to(like))

    def joined(self, others: Sequence[VectorFilters]) -> VectorFilters:
        """Returns these filters and those of other queries, one after the other."""
        parts = [self, *others]
        inputs, outputs = (
            torch.cat([getattr(part, side) for part in parts]) for side in ("inputs", "outputs")
        )
        return VectorFilters(inputs, outputs, self.weights, self.basis)

    def dense(self, queries: slice) -> Tensor:
        """Returns some filters in dense form: ``[queries, out, in]``."""
        outer = self.outputs[queries, :, None] * self.inputs[queries, None, :]
        return rotate_back(self.weights * outer, self.basis)

    def products(self, gradients: LayerGradients) -> Tensor:
        """Returns the inner products ⟨filter, G⟩ of every query with every example: ``[queries, batch]``."""
        merged = gradients.merged() if isinstance(gradients, OuterProducts) else gradients
        if not isinstance(merged, OuterProducts) or merged.positions > 1:
            return gradients.products(self.dense(slice(None)))
        assert self.basis.input is not None
        wide = product(merged.inputs[:, 0], self.basis.input), self.inputs
        narrow = rotate_outputs(merged.outputs[:, 0], self.basis), self.outputs
        weights = self.weights.T
        if weights.shape[0] < weights.shape[1]:
            wide, narrow, weights = narrow, wide, self.weights
        found = self.inputs.new_empty(len(self.inputs), len(merged.inputs))
        for rows in slices_of(len(merged.inputs), wide[0][:1].nbytes, CACHE_BYTES):
            mine, other = wide[0][rows], narrow[0][rows]
            for some in slices_of(len(self.inputs), mine.nbytes, CACHE_BYTES):
                filtered = product(wide[1][some, None] * mine, weights)
                found[some, rows] = torch.bmm(filtered.mul_(other), narrow[1][some, :, None])[..., 0]
        return found


def vector_layers(positions: Mapping[str, int | None], segments: Sequence[PreparedSegment]) -> set[str]:
    """Returns the layers whose filters can be ``VectorFilters``.

    Transports between segments and preconditioners make sums of many outer products of one.

    Args:
        positions: layer -> the outer products in a query's gradient, from ``query_positions``.
        segments: first to last.
    """
    if len(segments) > 1:
        return set()
    (segment,) = segments
    return {
        name
        for name, count in positions.items()
        if count == 1 and not segment.scaled(name) and segment.bases[name].input is not None
    }


def vector_filters(name: str, gradient: OuterProducts, segment: PreparedSegment) -> VectorFilters:
    """Returns the filters of one of the ``vector_layers``.

    Args:
        name: the layer.
        gradient: of the queries, with one position.
        segment: the only segment.
    """
    exact = gradient.in_precision(torch.float64).rotated(segment.bases[name].to(gradient.inputs.double()))
    weights = segment.spectrum.injection(segment.curvature(name))
    filters = VectorFilters(exact.inputs[:, 0], exact.outputs[:, 0], weights, segment.bases[name])
    return filters.to(gradient.inputs)
