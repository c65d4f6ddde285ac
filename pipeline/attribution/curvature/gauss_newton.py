"""Products with the Gauss–Newton matrix G = Σ over rows of Jᵀ H J.

J is the Jacobian of a row's outputs with respect to the parameters, and H is the output Hessian of the row's loss. A
product takes one forward-mode pass and one backward pass; no matrix is formed. The product with H has a closed form
for the objectives of this package. A pass takes as many rows and directions as fit in memory.

All functions return sums over the rows of a batch, so that batches, chunks and workers can be added up. Divide by the
number of rows for a mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap

from pipeline.attribution.curvature.factor_sums import add_tensors
from pipeline.attribution.model.calls import predict
from pipeline.attribution.model.coverage import matrix_parameters, parameter_matrices
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.objectives import Objective
from pipeline.attribution.objectives.output_hessians import hessian_forms, hessian_products
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.derivatives import contiguous, forward_mode
from pipeline.attribution.rows.pass_size import parts_of, rows_at_once

Tensors = dict[str, Tensor]


def gauss_newton_products(
    model: nn.Module, objective: Objective, batch: Batch, directions: Mapping[str, Tensor]
) -> Tensors:
    """Returns G times several directions, in the space of the covered layers.

    Args:
        model: the model at the weights where G is taken. It runs in evaluation mode.
        objective: the training objective.
        batch: the rows with their weights, and with their labels for objectives whose output Hessian depends on them.
        directions: layer -> matrices ``[directions, out, in]``; the bias is one more input.

    Returns:
        The sums over the rows, float64, with the layers and shapes of ``directions``.
    """
    sums: list[Tensors] = []
    for some in _slices(model, batch, directions):
        part: Tensors = {}
        for rows in parts_of(model, batch, _passes(some)):
            part = add_tensors(part, _products(model, objective, rows, some))
        sums.append(part)
    return {name: torch.cat([each[name] for each in sums]) for name in directions}


def _products(
    model: nn.Module, objective: Objective, batch: Batch, directions: Mapping[str, Tensor]
) -> Tensors:
    with _evaluated(model):
        evaluate, point, tangents = _layer_space(model, batch, directions)
        forward = vjp(evaluate, point)
        outputs, pull = forward[0], forward[1]
        changes = vmap(lambda v: jvp(evaluate, (point,), (v,))[1])(tangents)
        products = _weighted(hessian_products(objective, outputs.detach(), batch.labels, changes), batch)
        found = vmap(lambda product: pull(product)[0])(products)
    apart = [parameter_matrices(model, _direction(found, place)) for place in range(len(changes))]
    return {name: torch.stack([each[name] for each in apart]).double() for name in apart[0]}


def gauss_newton_forms(
    model: nn.Module, objective: Objective, batch: Batch, directions: Mapping[str, Tensor]
) -> Tensor:
    """Returns xᵀ G x of every direction x: float64 ``[directions]``.

    The arguments are those of ``gauss_newton_products``. There is no backward pass.
    """
    found = []
    for some in _slices(model, batch, directions):
        parts = [_forms(model, objective, rows, some) for rows in parts_of(model, batch, _passes(some))]
        found.append(torch.stack(parts).sum(0))
    return torch.cat(found)


def _forms(model: nn.Module, objective: Objective, batch: Batch, directions: Mapping[str, Tensor]) -> Tensor:
    with _evaluated(model), torch.no_grad():
        evaluate, point, tangents = _layer_space(model, batch, directions)
        outputs = evaluate(point)
        changes = vmap(lambda v: jvp(evaluate, (point,), (v,))[1])(tangents)
        forms = hessian_forms(objective, outputs, batch.labels, changes)
        return (forms if batch.weights is None else forms * batch.weights).sum(1)


def gauss_newton_form(
    model: nn.Module, objective: Objective, batch: Batch, direction: Mapping[str, Tensor]
) -> float:
    """Returns xᵀ G x of one direction x, layer -> ``[out, in]``, as ``gauss_newton_forms`` does."""
    return float(gauss_newton_forms(model, objective, batch, {k: v[None] for k, v in direction.items()}))


def parameter_product(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensors:
    """Returns G times one direction, in the space of the parameters.

    Args:
        model: the model. It runs in evaluation mode, with ``parameters`` in place of its own.
        objective: the training objective.
        batch: as in ``gauss_newton_products``.
        parameters: parameter -> the weights where G is taken.
        direction: parameter -> the direction, in the shape of the parameter.

    Returns:
        parameter -> the sum over the rows, in the shape of the parameter.
    """

    total: Tensors = {}
    for rows in parts_of(model, batch, passes=3):
        total = add_tensors(total, _parameter_product(model, objective, rows, parameters, direction))
    return total


def _parameter_product(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensors:
    def both(values: Tensors) -> tuple[Tensor, Tensor]:
        found = jvp(lambda p: predict(model, contiguous(batch.inputs), p), (values,), (dict(direction),))
        return found[0], found[1]

    with _evaluated(model):
        outputs, pull, change = cast(
            "tuple[Tensor, Callable[[Tensor], tuple[Tensors]], Tensor]",
            vjp(both, dict(parameters), has_aux=True),
        )
        products = hessian_products(objective, outputs.detach(), batch.labels, change.detach()[None])
        (found,) = pull(_weighted(products, batch)[0])
    return found


def _passes(directions: Mapping[str, Tensor]) -> int:
    """Returns the passes over rows that are held at the same time: one, and two for every direction."""
    return 1 + 2 * len(next(iter(directions.values())))


def _slices(
    model: nn.Module, batch: Batch, directions: Mapping[str, Tensor]
) -> Iterator[Mapping[str, Tensor]]:
    """Yields as many directions at a time as fit in memory with one row."""
    count = len(next(iter(directions.values())))
    step = max(1, (rows_at_once(model, batch.inputs) - 1) // 2) if count > 1 else 1
    if count <= step:
        yield directions
        return
    for first in range(0, count, step):
        yield {name: value[first : first + step] for name, value in directions.items()}


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode, and attention operations that have forward derivatives."""
    with evaluation_mode(model), forward_mode():
        yield


def _layer_space(
    model: nn.Module, batch: Batch, directions: Mapping[str, Tensor]
) -> tuple[Callable[[Tensors], Tensor], Tensors, Tensors]:
    """Returns the model as a function of the parameters of the covered layers.

    Returns:
        (the function from covered parameters to outputs, the present covered parameters, the directions as changes of
        the covered parameters).
    """
    fixed = {name: p.detach() for name, p in model.named_parameters()}
    count = len(next(iter(directions.values())))
    apart = [matrix_parameters(model, _direction(directions, place)) for place in range(count)]
    tangents = {name: torch.stack([each[name] for each in apart]) for name in apart[0]}

    inputs = contiguous(batch.inputs)

    def evaluate(covered: Tensors) -> Tensor:
        return predict(model, inputs, fixed | covered)

    return evaluate, {name: fixed[name] for name in tangents}, tangents


def _direction(directions: Mapping[str, Tensor], place: int) -> Tensors:
    return {name: value[place] for name, value in directions.items()}


def _weighted(products: Tensor, batch: Batch) -> Tensor:
    """Returns ``[changes, batch, ...]`` times the weights of the rows."""
    if batch.weights is None:
        return products
    return products * batch.weights.to(products).view(-1, *[1] * (products.dim() - 2))
