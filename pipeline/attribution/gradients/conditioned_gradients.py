"""Gradients of a layer under Adam's scaling of every parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients
from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients, rotate
from pipeline.attribution.gradients.outer_products import row_slices


class _Dense(Protocol):
    def dense(self, rows: slice) -> Tensor: ...


@dataclass(frozen=True)
class ConditionedGradients:
    """P^{1/2} ∘ G of a batch: no outer products any more, so matrices are formed, a slice of the batch at a time.

    Attributes:
        gradients: G, in any form that has ``dense``.
        root: P^{1/2} ``[out, in]``.
        batch: how many examples.
    """

    gradients: LayerGradients
    root: Tensor
    batch: int

    @property
    def nbytes(self) -> int:
        return self.gradients.nbytes

    def covariances(self) -> tuple[Tensor, Tensor]:
        """Σ G̃ᵀ G̃ ``[in, in]`` and Σ G̃ G̃ᵀ ``[out, out]`` over examples, float64: their eigenvectors are the basis."""
        size_out, size_in = self.root.shape
        inputs = self.root.new_zeros(size_in, size_in, dtype=torch.float64)
        outputs = self.root.new_zeros(size_out, size_out, dtype=torch.float64)
        for rows in row_slices(self.batch, self.root):
            found = self.dense(rows)
            inputs += found.flatten(0, 1).T @ found.flatten(0, 1)
            columns = found.transpose(0, 1).flatten(1)
            outputs += columns @ columns.T
        return inputs, outputs

    def squares(self, basis: Eigenbasis) -> Tensor:
        """Σ over examples of (Q_Sᵀ G̃ Q_A)² ``[out, in]``, float64."""
        total = torch.zeros_like(self.root, dtype=torch.float64)
        for rows in row_slices(self.batch, self.root):
            total += rotate(self.dense(rows), basis).square().sum(0)
        return total

    def dense(self, rows: slice) -> Tensor:
        return cast("_Dense", self.gradients).dense(rows) * self.root


def condition(gradients: LayerGradients, root: Tensor, batch: int) -> LayerGradients | ConditionedGradients:
    """P^{1/2} ∘ G in the form that suits: columns of an embedding and stored gradients are scaled as they are.
    ``root`` has their dtype and device.
    """
    if isinstance(gradients, IndexedGradients):
        outputs = gradients.outputs * root.T[gradients.tokens]
        return IndexedGradients(gradients.tokens, outputs, gradients.vocabulary, gradients.padding)
    if isinstance(gradients, DiagonalGradients):
        return DiagonalGradients(gradients.values * root)
    return ConditionedGradients(gradients, root, batch)
