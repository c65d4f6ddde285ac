"""The interface of a training objective: losses, margins, and output gradients for the curvature.

The curvature needs vectors g in output space with E[g gᵀ] = ∂²loss/∂outputs², the output Hessian. There are two ways to
get them. One is a single vector per example, from a label *sampled from the model*: the Monte-Carlo estimate of the
true Fisher information. (The data's own labels would give the empirical Fisher information, which vanishes as the loss
falls.) The other is all columns of an exact root of the output Hessian.

Products with the output Hessian need no columns where they have a closed form (``hessian_products``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError

CHECK_HINT = "See pipeline.attribution.Objective for what each function takes and gives."


class SampledGradients(Protocol):
    """The type ``(outputs, uniforms float64 [batch], labels) -> gradients`` of the outputs' shape."""

    def __call__(self, outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor: ...


class ExactGradients(Protocol):
    """The type ``(outputs, labels) -> columns``, each of the outputs' shape."""

    def __call__(self, outputs: Tensor, labels: Tensor | None = None) -> Sequence[Tensor]: ...


class HessianProducts(Protocol):
    """The type ``(outputs, labels, changes) -> products``, where changes and products are ``[changes, *outputs]``."""

    def __call__(self, outputs: Tensor, labels: Tensor | None, changes: Tensor) -> Tensor: ...


class Columns(Sequence[Tensor]):
    """Columns that are computed when they are asked for, so that one is in memory at a time.

    Args:
        count: the number of columns.
        make: gives the column at a place.
    """

    def __init__(self, count: int, make: Callable[[int], Tensor]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._make, range(self._count))

    @overload
    def __getitem__(self, place: int) -> Tensor: ...

    @overload
    def __getitem__(self, place: slice) -> list[Tensor]: ...

    def __getitem__(self, place: int | slice) -> Tensor | list[Tensor]:
        if isinstance(place, slice):
            return [self._make(each) for each in range(self._count)[place]]
        return self._make(range(self._count)[place])


@dataclass(frozen=True)
class Objective:
    """A training objective, as pure functions of the model's outputs.

    The outputs are ``[batch, outputs]``, or ``[batch, tokens, classes]`` of a sequence model. In every function, an
    example is a row of the batch.

    Attributes:
        name: the name of the objective in messages.
        losses: ``(outputs, labels) -> [batch]``, the loss of each example, without row weights.
        margins: ``(outputs, labels) -> [batch]``, or ``-> None`` for an objective that has no margins.
        sampled_output_gradients: ``(outputs, uniforms float64 [batch], labels)`` -> one random vector per example, in
            the outputs' shape. Its covariance is the output Hessian of the example's loss.
        exact_output_gradients: ``(outputs, labels)`` -> sequence of tensors of the outputs' shape. The sum of their
            outer products is the output Hessian.
        unknown_labels: ``(labels, number of outputs)`` -> those of the labels that a model with this number of outputs
            can't have. None if the labels aren't classes, so that any label is possible.
        options: the options of the function of this package that made the objective; None for one of your own.
        fit: ``(batches of labels of all training rows) -> Objective``, for an objective that needs to know all training
            labels; ``attribute`` calls it. None if the objective can be used as it is.
        hessian_products: ``(outputs, labels, changes [changes, *outputs])`` -> the output Hessian times every change,
            in the changes' shape and dtype. None computes them from ``exact_output_gradients``.
        token_losses: ``(outputs, labels) -> [batch, tokens]``, the parts of each example's loss, whose sum is the loss.
            None if the loss isn't a sum over tokens.

    ``labels`` may be None in the functions for output gradients and Hessians. They then raise AttributionError if the
    output Hessian depends on the given labels, as it does with class weights and with padding.
    """

    name: str
    losses: Callable[[Tensor, Tensor], Tensor]
    margins: Callable[[Tensor, Tensor], Tensor | None]
    sampled_output_gradients: SampledGradients
    exact_output_gradients: ExactGradients
    unknown_labels: Callable[[Tensor, int], Tensor] | None = None
    options: Mapping[str, Any] | None = field(default=None, compare=False)
    fit: Callable[[Iterable[Tensor]], Objective] | None = None
    hessian_products: HessianProducts | None = None
    token_losses: Callable[[Tensor, Tensor], Tensor] | None = None


def check_objective(objective: Objective, outputs: Tensor, labels: Tensor, fisher: str = "mc") -> None:
    """Calls an objective's functions on one batch and checks their results.

    Args:
        objective: the objective.
        outputs: the model's outputs for the batch; the batch is the first dimension.
        labels: the labels of the batch.
        fisher: the output gradients to check, ``mc`` or ``exact``.

    Raises:
        AttributionError: a result isn't a tensor of the shape that ``Objective`` says, or isn't finite.
    """
    outputs = outputs.detach()
    rows, whole = (len(outputs),), tuple(outputs.shape)
    losses = objective.losses(outputs, labels)
    _check(objective, "losses", losses, rows)
    if objective.token_losses is not None:
        parts = objective.token_losses(outputs, labels)
        _check(objective, "token_losses", parts, (len(outputs), parts.shape[-1]))
        if not torch.allclose(parts.sum(1), losses, rtol=1e-3):
            raise AttributionError(
                f"token_losses of the objective {objective.name!r} don't sum to its losses.", CHECK_HINT
            )
    margins = objective.margins(outputs, labels)
    if margins is not None:
        _check(objective, "margins", margins, rows)
    if fisher == "exact":
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
    """Returns None: the ``margins`` function of an objective that has no margins."""
    return
