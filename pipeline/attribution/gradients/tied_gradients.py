"""Per-example gradients of a weight that Linear and Embedding modules share.

The matrix is that of the Linear uses, ``[out, in]``, so a token of an Embedding use is a row of it. One-hot vectors of
tokens are never formed: in a language model they are as large as the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import Eigenbasis, HeldGradients, LayerGradients
from pipeline.attribution.gradients.outer_products import (
    DenseGradients,
    OuterProducts,
    filtered_slices,
    row_slices,
)
from pipeline.attribution.gradients.products import product


@dataclass(frozen=True)
class TiedGradients(LayerGradients):
    """Gradients Σ_positions g aᵀ + Σ_tokens onehot(token) hᵀ.

    Covariances are those of the first sum alone. Those of the second would mix inputs with output gradients, which are
    of different sizes.

    Attributes:
        linear: g and a of the Linear uses; no positions where there are none.
        tokens: int64 ``[batch, tokens]`` of the Embedding uses.
        rows: h, the output gradients of the Embedding uses, ``[batch, tokens, in]``.
    """

    linear: OuterProducts
    tokens: Tensor
    rows: Tensor

    @property
    def positions(self) -> int:
        return self.linear.positions + self.tokens.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, out, in)."""
        return len(self.tokens), self.linear.outputs.shape[2], self.linear.size_in

    @property
    def nbytes(self) -> int:
        return self.linear.nbytes + self.tokens.nbytes + self.rows.nbytes

    def joined(self, others: Sequence[HeldGradients]) -> TiedGradients:
        parts = [self, *(other for other in others if isinstance(other, TiedGradients))]
        if len(parts) == 1:
            return self
        linear = [part.linear for part in parts if part.linear.positions] or [self.linear]
        return TiedGradients(
            linear[0].joined(linear[1:]),
            torch.cat([part.tokens for part in parts], 1),
            torch.cat([part.rows for part in parts], 1),
        )

    def with_inputs_of(self, other: HeldGradients) -> None:  # noqa: ARG002 - inputs of the head move
        return None

    def added(self, other: HeldGradients) -> TiedGradients:
        raise NotImplementedError("with_inputs_of finds no equal inputs")

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        return self.linear.input_covariance(row_scale)

    def gradient_covariance(self, widest: int | None = None) -> Tensor:
        return self.linear.gradient_covariance(widest)

    def compact(self) -> HeldGradients:
        _, size_out, size_in = self.shape
        factors = self.linear.positions * (size_out + size_in) + self.tokens.shape[1] * (1 + size_in)
        return DenseGradients(self.matrices()) if size_out * size_in < factors else self

    def squares(self, basis: Eigenbasis) -> Tensor:
        total = self.rows.new_zeros(self.shape[1:], dtype=torch.float64)
        for rows in row_slices(len(self.tokens), total):
            total += self.dense(rows, basis).square_().sum(0)
        return total

    def total(self) -> Tensor:
        return self.linear.total().index_add_(0, self.tokens.flatten(), self.rows.flatten(0, 1).double())

    def matrices(self) -> Tensor:
        return self.dense(slice(None))

    def products(self, filters: Tensor) -> Tensor:
        if filters.dim() == 2:
            return self.linear.products(filters) + (self.rows * filters[self.tokens]).sum((1, 2))
        slices = filtered_slices(len(self.tokens), filters)
        parts = [filters.flatten(1) @ self.dense(rows).flatten(1).T for rows in slices]
        return torch.cat([filters.new_zeros(len(filters), 0), *parts], 1)

    def dense(self, rows: slice, basis: Eigenbasis | None = None) -> Tensor:
        """Returns the gradients of ``rows`` as matrices ``[rows, out, in]``, rotated into ``basis`` if given."""
        matrices = self.linear.dense(rows, basis)
        tokens, added = self.tokens[rows], self.rows[rows]
        if basis is not None and basis.input is not None:
            added = product(added, basis.input)
        if basis is not None and basis.gradient.dim() == 2:
            return matrices.add_(basis.gradient[tokens].mT @ added)
        first = torch.arange(len(tokens), device=tokens.device)[:, None] * matrices.shape[1]
        matrices.flatten(0, 1).index_add_(0, (first + tokens).flatten(), added.flatten(0, 1))
        return matrices
