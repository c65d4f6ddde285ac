"""A batch of rows, and the selection of some of its rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.attribution.model.calls import Inputs, select_inputs


@dataclass(frozen=True)
class Batch:
    """A batch of rows.

    Attributes:
        inputs: the model's inputs; the batch is the first dimension.
        labels: int64 ``[batch]`` or float ``[batch, outputs]``, as the objective takes them.
        row_ids: int64 ``[batch]``, the identity of each row.
        weights: ``[batch]`` row weights of mean 1 over the training set, or None.
    """

    inputs: Inputs
    labels: Tensor
    row_ids: Tensor
    weights: Tensor | None = None

    def select(self, rows: Tensor) -> Batch:
        """Returns some rows, given by their places or by a mask."""
        weights = None if self.weights is None else self.weights[rows]
        return Batch(select_inputs(self.inputs, rows), self.labels[rows], self.row_ids[rows], weights)
