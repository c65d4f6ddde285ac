"""Per-example gradients of a layer, scaled by the root of Adam's preconditioner."""

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
class PreconditionedGradients:
    """Preconditioned gradients G̃ = P^{1/2} ∘ G of a batch.

    They are no outer products any more, so every calculation forms the matrices, a slice of the batch at a time.

    Attributes:
        gradients: G, in any form that has ``dense``.
        root: P^{1/2}, ``[out, in]``, the elementwise root of the preconditioner.
        batch: the number of examples.
    """

    gradients: LayerGradients
    root: Tensor
    batch: int

    @property
    def nbytes(self) -> int:
        return self.gradients.nbytes

    def covariances(self, widest: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns Σ G̃ᵀ G̃ ``[in, in]`` and Σ G̃ G̃ᵀ ``[out, out]`` over examples, in float64.

        Their eigenvectors are the eigenbasis of the layer.

        Args:
            widest: layers with more outputs than this give the diagonal ``[out]`` of the second; None gives all.
        """
        size_out, size_in = self.root.shape
        diagonal = widest is not None and size_out > widest
        inputs = self.root.new_zeros(size_in, size_in, dtype=torch.float64)
        outputs = self.root.new_zeros((size_out,) if diagonal else (size_out, size_out), dtype=torch.float64)
        for rows in row_slices(self.batch, self.root):
            found = self.dense(rows)
            inputs += found.flatten(0, 1).T @ found.flatten(0, 1)
            if diagonal:
                outputs += found.square().sum((0, 2), dtype=torch.float64)
                continue
            columns = found.transpose(0, 1).flatten(1)
            outputs += columns @ columns.T
        return inputs, outputs

    def squares(self, basis: Eigenbasis) -> Tensor:
        """Returns Σ over examples of the elementwise squares (Q_Sᵀ G̃ Q_A)²: float64 ``[out, in]``."""
        total = torch.zeros_like(self.root, dtype=torch.float64)
        for rows in row_slices(self.batch, self.root):
            total += rotate(self.dense(rows), basis).square().sum(0)
        return total

    def dense(self, rows: slice) -> Tensor:
        """Returns G̃ of ``rows`` as matrices ``[rows, out, in]``."""
        return cast("_Dense", self.gradients).dense(rows) * self.root


def precondition(
    gradients: LayerGradients, root: Tensor, batch: int
) -> LayerGradients | PreconditionedGradients:
    """Returns the preconditioned gradients P^{1/2} ∘ G of a batch.

    Gradients of embeddings and normalisations keep their form, because scaling doesn't change it.

    Args:
        gradients: G.
        root: P^{1/2}, ``[out, in]``, in the dtype and on the device of the gradients.
        batch: the number of examples.
    """
    if isinstance(gradients, IndexedGradients):
        outputs = gradients.outputs * root.T[gradients.tokens]
        return IndexedGradients(gradients.tokens, outputs, gradients.vocabulary, gradients.padding)
    if isinstance(gradients, DiagonalGradients):
        return DiagonalGradients(gradients.values * root)
    return PreconditionedGradients(gradients, root, batch)
