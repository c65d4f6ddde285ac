"""A base class for per-example gradients whose matrices are so small that the calculations form them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients, rotate
from pipeline.attribution.gradients.outer_products import DenseGradients, row_slices


class FormedGradients(LayerGradients):
    """Gradients that compute everything but the covariances from their matrices, a slice of the batch at a time."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(batch, out, in)."""

    @abstractmethod
    def dense(self, rows: slice) -> Tensor:
        """Returns the gradients of ``rows`` as matrices ``[rows, out, in]``."""

    def squares(self, basis: Eigenbasis) -> Tensor:
        total = basis.gradient.new_zeros(self.shape[1:], dtype=torch.float64)
        for rows in self._slices(total):
            total += rotate(self.dense(rows), basis).square().sum(0, dtype=torch.float64)
        return total

    def total(self) -> Tensor:
        return self.matrices().sum(0, dtype=torch.float64)

    def matrices(self) -> Tensor:
        return self.dense(slice(0, self.shape[0]))

    def products(self, filters: Tensor) -> Tensor:
        flat = filters.flatten(-2)
        found = [
            flat @ self.dense(rows).flatten(1).T
            for rows in self._slices(filters.reshape(-1, *self.shape[1:])[:1])
        ]
        return torch.cat([filters.new_zeros(*filters.shape[:-2], 0), *found], -1)

    def compact(self) -> DenseGradients:
        return DenseGradients(self.matrices())

    def _slices(self, like: Tensor) -> Iterator[slice]:
        return row_slices(self.shape[0], like)
