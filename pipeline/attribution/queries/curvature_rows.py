"""Which training rows the true Gauss–Newton matrix is taken over, and at which checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# The number of rows over which the scale α is measured (``scale``).
SCALE_ROWS = 1024


@dataclass(frozen=True)
class CurvatureRows:
    """Rows that are taken at the weights of one checkpoint.

    Attributes:
        checkpoint: the checkpoint's place in the trajectory.
        rows: int64 ``[rows]``, the rows' numbers.
    """

    checkpoint: int
    rows: Tensor


def curvature_rows(
    train_rows: int, checkpoints: tuple[int, ...], first: int, count: int, seed: int
) -> list[CurvatureRows]:
    """Chooses rows for the Gauss–Newton matrix, and distributes them over the checkpoints in turn.

    The rows are taken from a random order. If the order ends, it starts again; a row that is taken again comes at
    another checkpoint.

    Args:
        train_rows: the number of training rows.
        checkpoints: the places of the checkpoints in the trajectory.
        first: the place in the random order of the first row to take.
        count: the number of rows to take.
        seed: the seed of the random order.
    """
    order = torch.randperm(train_rows, generator=torch.Generator().manual_seed(seed))
    places = torch.arange(first, first + count)
    turns = (places + places // train_rows) % len(checkpoints)
    chosen = [order[places[turns == turn] % train_rows].sort().values for turn in range(len(checkpoints))]
    return [CurvatureRows(c, rows) for c, rows in zip(checkpoints, chosen, strict=True) if len(rows)]


def scale_rows(order: Tensor, checkpoints: Sequence[int]) -> list[CurvatureRows]:
    """Chooses the rows over which the scale α is measured, and distributes them over the checkpoints in turn.

    Args:
        order: int64 ``[training rows]``, the rows' numbers in a random order. The first ``SCALE_ROWS`` are taken.
        checkpoints: the places of the checkpoints in the trajectory.
    """
    chosen = order[:SCALE_ROWS]
    parts = [CurvatureRows(each, chosen[turn :: len(checkpoints)]) for turn, each in enumerate(checkpoints)]
    return [part for part in parts if len(part.rows)]


def rows_inside(parts: Sequence[CurvatureRows], first: int, count: int) -> list[CurvatureRows]:
    """Returns those of the rows that lie in a part of all rows, numbered from its first row.

    Args:
        parts: rows, numbered from the first of all rows.
        first: the number of the first row of the part of all rows.
        count: the number of rows of the part of all rows.
    """
    found = []
    for part in parts:
        rows = part.rows - first
        rows = rows[(rows >= 0) & (rows < count)]
        if len(rows):
            found.append(CurvatureRows(part.checkpoint, rows))
    return found


def row_count(parts: Sequence[CurvatureRows]) -> int:
    """Returns the number of rows of all checkpoints."""
    return sum(len(part.rows) for part in parts)
