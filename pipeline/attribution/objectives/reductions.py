"""Losses of rows that are means over tokens or outputs, as torch's losses are by default, instead of sums.

Let s_i be the sum of a row's losses over its tokens or outputs, and n_i their number. torch's default for a batch is
Σ s_i / Σ n_i. With n̄, the mean of n_i over the training rows, that is the mean over the batch's rows of s_i / n̄, up to
the difference between a batch's own mean number and n̄. Rows with equally many tokens have no such difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.objective import Columns, Objective

SUM, MEAN, ROW_MEAN = "sum", "mean", "row_mean"
# ``(outputs, labels)`` -> the numbers by which rows' losses are divided, ``[batch]``, or one number.
Divisors = Callable[[Tensor, Tensor | None], Tensor | float]


def check_reduction(reduction: str, known: Sequence[str]) -> None:
    """Checks the name of a reduction.

    Raises:
        AttributionError: it is none of ``known``.
    """
    if reduction not in known:
        raise AttributionError(f"reduction is {reduction!r}.", f"Use one of: {', '.join(known)}.")


def divided(objective: Objective, divisors: Divisors) -> Objective:
    """Returns an objective whose losses are those of another one, divided. Its margins stay the same.

    Args:
        objective: the other objective.
        divisors: ``(outputs, labels)`` -> the numbers to divide by.
    """

    def by_row(outputs: Tensor, labels: Tensor | None) -> Tensor:
        by = torch.as_tensor(divisors(outputs, labels), device=outputs.device).double()
        return by.reshape((-1, *[1] * (outputs.dim() - 1)) if by.dim() else ())

    def scaled(values: Tensor, outputs: Tensor, labels: Tensor | None) -> Tensor:
        return (values / by_row(outputs, labels).sqrt()).to(values.dtype)

    def losses(outputs: Tensor, labels: Tensor) -> Tensor:
        found = objective.losses(outputs, labels)
        return found / torch.as_tensor(divisors(outputs, labels)).to(found)

    def token_losses(outputs: Tensor, labels: Tensor) -> Tensor:
        assert objective.token_losses is not None
        found = objective.token_losses(outputs, labels)
        return found / torch.as_tensor(divisors(outputs, labels)).to(found).reshape(-1, 1)

    def sampled(outputs: Tensor, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        return scaled(objective.sampled_output_gradients(outputs, uniforms, labels), outputs, labels)

    def exact(outputs: Tensor, labels: Tensor | None = None) -> Sequence[Tensor]:
        columns = objective.exact_output_gradients(outputs, labels)
        return Columns(len(columns), lambda place: scaled(columns[place], outputs, labels))

    def hessian(outputs: Tensor, labels: Tensor | None, changes: Tensor) -> Tensor:
        assert objective.hessian_products is not None
        products = objective.hessian_products(outputs, labels, changes)
        return products / by_row(outputs, labels).to(products.dtype)

    return replace(
        objective,
        losses=losses,
        sampled_output_gradients=sampled,
        exact_output_gradients=exact,
        hessian_products=None if objective.hessian_products is None else hessian,
        token_losses=None if objective.token_losses is None else token_losses,
    )


def per_output(objective: Objective) -> Objective:
    """Returns the mean over a row's outputs. All rows have equally many."""
    return divided(objective, lambda outputs, _: float(outputs[0].numel()))


def over_the_mean_size(objective: Objective, sizes: Callable[[Tensor], Tensor]) -> Objective:
    """Returns an objective that divides by n̄. It can't be used before its ``fit`` has seen the labels of the rows.

    Args:
        objective: the objective with sums of losses.
        sizes: labels -> n_i, ``[batch]``.
    """

    def fit(labels: Iterable[Tensor]) -> Objective:
        total, rows = 0.0, 0
        for each in labels:
            total += float(sizes(each).double().sum())
            rows += len(each)
        if total <= 0:
            raise AttributionError(
                "No training row has a token with a label.", "Give labels that aren't all padding."
            )
        return replace(divided(objective, lambda _outputs, _labels: total / rows), fit=None)

    def unfitted(_outputs: Tensor, _labels: Tensor | None) -> float:
        raise AttributionError(
            f"The loss {objective.name!r} with reduction='mean' divides by the mean number of tokens of a "
            "training row, which it doesn't know yet.",
            "Call its fit with the batches of labels of the training rows; attribute() does that.",
        )

    return replace(divided(objective, unfitted), fit=fit)
