"""Rows as batches: what is scored, and how some rows of it are taken."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.attribution.model.capture import Inputs


@dataclass(frozen=True)
class Batch:
    """Rows to score.

    Attributes:
        inputs: given to the model as they are; the batch comes first.
        labels: int64 ``[batch]`` or float ``[batch, outputs]``.
        row_ids: int64 ``[batch]``, each row's identity.
        weights: ``[batch]`` row weights of mean 1 over the training set, or None.
    """

    inputs: Inputs
    labels: Tensor
    row_ids: Tensor
    weights: Tensor | None = None

    def select(self, rows: Tensor) -> Batch:
        """Some rows, by their places or a mask."""
        weights = None if self.weights is None else self.weights[rows]
        return Batch(select_inputs(self.inputs, rows), self.labels[rows], self.row_ids[rows], weights)


def select_inputs(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    """Some rows of what the model is given, by their places, a mask or a slice."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: value[rows] for name, value in inputs.items()}
