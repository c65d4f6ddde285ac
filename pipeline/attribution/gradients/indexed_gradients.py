"""Per-example gradients of a layer whose inputs are one-hot (an embedding); one-hot vectors are never formed.

An example's gradient is a matrix ``[out, in]``, where ``in`` is the size of the vocabulary. It has one non-zero column
per distinct token. The columns of equal tokens of one example are summed first. After that, squares, products and
transport act on each column by itself, without approximation. A = E[a aᵀ] is diagonal, so Q_A is the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import (
    Eigenbasis,
    HeldGradients,
    LayerGradients,
    rotate_outputs,
)
from pipeline.attribution.gradients.products import covariance, same_values


@dataclass(frozen=True)
class MergedColumns:
    """The non-zero gradient columns of a batch: one entry per distinct (example, token), sorted.

    Attributes:
        rows: int64 ``[entries]``, the example's place in the batch.
        tokens: int64 ``[entries]``, the token, which is the column's place in the matrix.
        columns: ``[entries, out]``, the columns.
    """

    rows: Tensor
    tokens: Tensor
    columns: Tensor


@dataclass(frozen=True)
class IndexedGradients(LayerGradients):
    """Gradients Σ_positions g onehot(token)ᵀ.

    Attributes:
        tokens: int64 ``[batch, positions]``.
        outputs: the output gradients g, ``[batch, positions, out]``, zero at padding.
        vocabulary: the number of tokens, which is ``in`` of the matrices.
        padding: the token that has no gradient, or None.
    """

    tokens: Tensor
    outputs: Tensor
    vocabulary: int
    padding: int | None

    @property
    def positions(self) -> int:
        return self.tokens.shape[1]

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.outputs.nbytes

    def input_covariance(self, row_scale: Tensor | None) -> Tensor:
        weight = torch.ones(len(self.tokens), dtype=torch.float64, device=self.tokens.device)
        if row_scale is not None:
            weight = row_scale.double().square()
        counts = weight.new_zeros(self.vocabulary)
        counts.index_add_(0, self.tokens.flatten(), weight[:, None].expand(self.tokens.shape).flatten())
        if self.padding is not None:
            counts[self.padding] = 0.0
        return counts

    def gradient_covariance(self, widest: int | None = None) -> Tensor:
        return covariance(self.outputs.flatten(0, 1), widest)

    def with_inputs_of(self, other: HeldGradients) -> IndexedGradients | None:
        if isinstance(other, IndexedGradients) and same_values(self.tokens, other.tokens):
            return IndexedGradients(other.tokens, self.outputs, self.vocabulary, self.padding)
        return None

    def added(self, other: HeldGradients) -> IndexedGradients:
        assert isinstance(other, IndexedGradients)
        assert other.tokens is self.tokens
        return IndexedGradients(self.tokens, self.outputs + other.outputs, self.vocabulary, self.padding)

    def squares(self, basis: Eigenbasis) -> Tensor:
        merged = self.merged()
        return self._by_token(merged.tokens, rotate_outputs(merged.columns, basis).double().square())

    def total(self) -> Tensor:
        return self._by_token(self.tokens.flatten(), self.outputs.flatten(0, 1).double())

    def matrices(self) -> Tensor:
        merged = self.merged()
        dense = merged.columns.new_zeros(len(self.tokens), self.vocabulary, merged.columns.shape[1])
        dense[merged.rows, merged.tokens] = merged.columns
        return dense.transpose(1, 2)

    def products(self, filters: Tensor) -> Tensor:
        if filters.dim() == 3:
            return torch.stack([self.products(one) for one in filters])
        return (self.outputs * filters.T[self.tokens]).sum((1, 2))

    def compact(self) -> IndexedGradients:
        return self

    def joined(self, others: Sequence[HeldGradients]) -> IndexedGradients:
        parts = [self, *(other for other in others if isinstance(other, IndexedGradients))]
        if len(parts) == 1:
            return self
        tokens, outputs = torch.cat([p.tokens for p in parts], 1), torch.cat([p.outputs for p in parts], 1)
        return IndexedGradients(tokens, outputs, self.vocabulary, self.padding)

    def merged(self) -> MergedColumns:
        """Returns the gradient columns, those of equal tokens of one example summed."""
        rows = torch.arange(len(self.tokens), device=self.tokens.device)[:, None]
        keys, place = torch.unique(rows * self.vocabulary + self.tokens, return_inverse=True)
        columns = self.outputs.new_zeros(len(keys), self.outputs.shape[2])
        columns.index_add_(0, place.flatten(), self.outputs.flatten(0, 1))
        return MergedColumns(keys // self.vocabulary, keys % self.vocabulary, columns)

    def _by_token(self, tokens: Tensor, columns: Tensor) -> Tensor:
        """Returns the sums of columns ``[entries, out]`` per token: ``[out, vocabulary]``."""
        total = columns.new_zeros(self.vocabulary, columns.shape[1])
        return total.index_add_(0, tokens, columns).T.contiguous()
