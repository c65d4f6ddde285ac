"""Adds to the columns of a table how far each number is through each of its bins; first layer of the model `table`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

NARROWEST = 1e-6
"""Of a bin, in standard deviations of its column."""


class TableBins(nn.Module):
    """Turns dense columns `[batch, columns]` into `[batch, width]`: the columns, then one number for each bin.

    The number of a bin is 0 below the bin, 1 above it, and rises evenly within it (piecewise linear encoding;
    Gorishniy et al. 2022). A linear layer on it is a piecewise linear function of the column. The module has no
    parameters, so that attribution covers the whole model.

    Args:
        edges: column -> edges of its bins, ascending, in the unit of the column.
        columns: how many there are.
    """

    column: Tensor
    low: Tensor
    size: Tensor

    def __init__(self, edges: Mapping[int, Sequence[float]], columns: int):
        super().__init__()
        bins = [
            (column, low, max(high - low, NARROWEST))
            for column, of_column in edges.items()
            for low, high in itertools.pairwise(of_column)
        ]
        self.width = columns + len(bins)
        self.register_buffer("column", torch.tensor([column for column, _, _ in bins], dtype=torch.int64))
        self.register_buffer("low", torch.tensor([low for _, low, _ in bins], dtype=torch.float32))
        self.register_buffer("size", torch.tensor([size for _, _, size in bins], dtype=torch.float32))

    def forward(self, columns: Tensor) -> Tensor:
        inside = (columns[:, self.column] - self.low) / self.size
        return torch.cat([columns, inside.clamp(0, 1)], dim=1)
