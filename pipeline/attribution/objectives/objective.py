"""What an objective is: per-example loss, margin, and output gradients with the loss's output Hessian.

The curvature needs vectors g in output space with E[g gᵀ] = ∂²loss/∂outputs². Either one vector per example
from a label *sampled from the model* (the true Fisher; the data's labels would give the empirical Fisher,
which collapses as the loss falls), or all columns of an exact root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError

CHECK_HINT = "See pipeline.attribution.Objective for what each function takes and gives."


class SampledGradients(Protocol):
    """``(outputs, uniforms float64 [batch], labels) -> gradients`` of the outputs' shape."""

    def __call__(self, outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor: ...


class ExactGradients(Protocol):
    """``(outputs, labels) -> columns``, each of the outputs' shape."""

    def __call__(self, outputs: Tensor, labels: Tensor | None = None) -> list[Tensor]: ...


@dataclass(frozen=True)
class Objective:
    """What a model was trained on, as pure functions of its outputs ``[batch, outputs]``, or
    ``[batch, tokens, classes]`` of a sequence model. An example is a row of the batch in every function.

    Attributes:
        name: how messages call it.
        losses: ``(outputs, labels) -> [batch]``, the loss of each example, without row weights.
        margins: ``(outputs, labels) -> [batch]``, or -> None where the notion doesn't exist.
        sampled_output_gradients: ``(outputs, uniforms float64 [batch], labels)`` -> one draw per example, of
            the outputs' shape, whose covariance is the output Hessian of the example's loss.
        exact_output_gradients: ``(outputs, labels)`` -> list of tensors of the outputs' shape; the sum of their
            outer products is the output Hessian.
        unknown_labels: ``(labels, outputs) -> labels`` that a model with so many outputs can't have; None where the
            labels are no classes, and any label is possible.

    In the two rules for output gradients ``labels`` may be None; they raise AttributionError then if the Hessian
    depends on the given labels, as it does with class weights and with padding.
    """

    name: str
    losses: Callable[[Tensor, Tensor], Tensor]
    margins: Callable[[Tensor, Tensor], Tensor | None]
    sampled_output_gradients: SampledGradients
    exact_output_gradients: ExactGradients
    unknown_labels: Callable[[Tensor, int], Tensor] | None = None


def check_objective(
    objective: Objective, outputs: Tensor, labels: Tensor, curvature: str = "sampled"
) -> None:
    """Calls an objective's functions on one batch and looks at what comes back.

    Args:
        outputs: what the model gives for the batch, the batch first.
        labels: the batch's labels.
        curvature: which rule is used, ``sampled`` or ``exact``.

    Raises:
        AttributionError: a result has another shape than ``Objective`` says, or is not finite.
    """
    outputs = outputs.detach()
    rows, whole = (len(outputs),), tuple(outputs.shape)
    _check(objective, "losses", objective.losses(outputs, labels), rows)
    margins = objective.margins(outputs, labels)
    if margins is not None:
        _check(objective, "margins", margins, rows)
    if curvature == "exact":
        for column in objective.exact_output_gradients(outputs, labels):
            _check(objective, "exact_output_gradients", column, whole)
    else:
        middle = torch.full(rows, 0.5, dtype=torch.float64, device=outputs.device)
        drawn = objective.sampled_output_gradients(outputs, middle, labels)
        _check(objective, "sampled_output_gradients", drawn, whole)


def _check(objective: Objective, function: str, found: object, shape: tuple[int, ...]) -> None:
    what = f"{function} of the objective {objective.name!r}"
    if not isinstance(found, Tensor):
        raise AttributionError(f"{what} gives {type(found).__name__} where a tensor is due.", CHECK_HINT)
    if tuple(found.shape) != shape:
        raise AttributionError(f"{what} gives shape {tuple(found.shape)} where {shape} is due.", CHECK_HINT)
    if not torch.isfinite(found).all():
        raise AttributionError(
            f"{what} gives NaN or infinity.", "Look at the model's outputs and the labels."
        )


def no_margins(_outputs: Tensor, _labels: Tensor) -> None:
    """The margins of an objective that has none."""
    return
