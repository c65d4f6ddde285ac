"""Products with the output Hessian of any objective: in closed form, or from the columns of its root."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.attribution.objectives.objective import Objective


def hessian_products(objective: Objective, outputs: Tensor, labels: Tensor | None, changes: Tensor) -> Tensor:
    """Returns the output Hessian of every row times changes of its outputs.

    Args:
        objective: the objective.
        outputs: the model's outputs; the batch is the first dimension.
        labels: the labels of the rows.
        changes: ``[changes, *outputs]``.

    Returns:
        A tensor like ``changes``.
    """
    if objective.hessian_products is not None:
        return objective.hessian_products(outputs, labels, changes)
    total, shape = torch.zeros_like(changes), (*changes.shape[:2], *[1] * (changes.dim() - 2))
    for column in objective.exact_output_gradients(outputs, labels):
        total += column * (column * changes).flatten(2).sum(2).view(shape)
    return total


def hessian_forms(objective: Objective, outputs: Tensor, labels: Tensor | None, changes: Tensor) -> Tensor:
    """Returns vᵀ H v of every change v and row, float64 ``[changes, batch]``; ``hessian_products`` says the rest."""
    products = hessian_products(objective, outputs, labels, changes)
    return (changes * products).flatten(2).sum(2, dtype=torch.float64)
