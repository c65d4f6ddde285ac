"""Directional derivatives of the losses of rows, computed without forming a gradient per row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.backends import mha
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.calls import Inputs, predict
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.pass_size import parts_of

# A function from row numbers, int64 ``[batch]``, to these rows.
RowSource = Callable[[Tensor], Batch]
# The rows of one forward pass in a loop over many rows.
PASS_ROWS = 512


@contextmanager
def forward_mode() -> Iterator[None]:
    """Makes attention use operations that have forward and second derivatives; fused kernels have none.

    Raises:
        AttributionError: a part of the model runs under torch.utils.checkpoint, which has no such derivatives.
    """
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        raise AttributionError(
            "A part of the model runs under torch.utils.checkpoint, which this method can't differentiate.",
            "Switch checkpoints of activations off for attribution, or use method='source'.",
        ) from error
    finally:
        mha.set_fastpath_enabled(fast)


def row_source(pairs: Iterable[tuple[Inputs, Tensor]]) -> RowSource:
    """Returns a row source that holds all rows in memory. Rows are numbered from 0 in their order.

    Args:
        pairs: batches of (inputs, labels).

    Raises:
        AttributionError: there are no batches.
    """
    held = list(pairs)
    if not held:
        raise AttributionError("There are no training rows.", "Give at least one batch.")
    labels = torch.cat([pair[1] for pair in held])
    first = held[0][0]
    if isinstance(first, Tensor):
        together = torch.cat([pair[0] for pair in held])  # type: ignore[misc]
        return lambda rows: Batch(together[rows], labels[rows], rows)
    named = {name: torch.cat([pair[0][name] for pair in held]) for name in first}  # type: ignore[index]
    return lambda rows: Batch({name: values[rows] for name, values in named.items()}, labels[rows], rows)


def contiguous(inputs: Inputs) -> Inputs:
    """Returns the same values in contiguous memory, which torch's forward derivative of GroupNorm needs."""
    if isinstance(inputs, Tensor):
        return inputs.contiguous()
    return {name: value.contiguous() for name, value in inputs.items()}


def _row_losses(
    model: nn.Module, objective: Objective, batch: Batch, parameters: Mapping[str, Tensor]
) -> Tensor:
    """Returns the weighted losses ``[batch]``, with ``parameters`` in place of the model's own."""
    losses = objective.losses(predict(model, contiguous(batch.inputs), parameters), batch.labels)
    return losses if batch.weights is None else losses * batch.weights.to(losses)


def row_products(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Returns ⟨∇(weighted loss), direction⟩ of every row: ``[batch]``.

    Args:
        model: the model, in the mode in which it is to run.
        objective: the objective.
        batch: the rows.
        parameters: parameter -> the weights where the gradients are taken.
        direction: parameter -> the direction, in the shape of the parameter.
    """
    return _changes(lambda given: _row_losses(model, objective, batch, given), parameters, direction)


def token_products(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Returns ⟨∇(weighted loss), direction⟩ of every token: ``[batch, tokens]``. ``row_products`` says the rest."""

    def losses(given: Mapping[str, Tensor]) -> Tensor:
        assert objective.token_losses is not None
        found = objective.token_losses(predict(model, contiguous(batch.inputs), given), batch.labels)
        return found if batch.weights is None else found * batch.weights.to(found)[:, None]

    return _changes(losses, parameters, direction)


def _changes(
    losses: Callable[[Mapping[str, Tensor]], Tensor],
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Returns the derivatives of losses along a direction of the parameters, in the shape of the losses."""
    with torch.no_grad(), forward_mode():
        both = jvp(losses, (dict(parameters),), (dict(direction),))
    change: Tensor = both[1]
    return change


def row_and_hessian_products(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns ``row_products`` and a Hessian product, in two backward passes.

    Let u_i be a factor for each row, and s(u, parameters) = ⟨∇ Σ u_i loss_i, direction⟩. The derivatives of s with
    respect to u and to the parameters are the two results. The arguments are those of ``row_products``.

    Returns:
        (``row_products`` ``[batch]``, parameter -> the Hessian of the sum of the weighted losses times the direction).
    """
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with forward_mode():
        losses = _row_losses(model, objective, batch, leaves)
        shares = torch.ones_like(losses, requires_grad=True)
        options: dict[str, bool] = {"allow_unused": True, "materialize_grads": True}
        first = torch.autograd.grad(losses, list(leaves.values()), shares, create_graph=True, **options)
        along = [pair for pair in zip(first, direction.values(), strict=True) if pair[0].requires_grad]
        gradients, tangents = zip(*along, strict=True)
        products, *second = torch.autograd.grad(gradients, [shares, *leaves.values()], tangents, **options)
    return products, dict(zip(leaves, second, strict=True))


def all_row_products(
    model: nn.Module,
    objective: Objective,
    rows: RowSource,
    count: int,
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Returns ``row_products`` of the rows 0 … count − 1 in evaluation mode: float64 ``[count]`` on the CPU.

    ``rows`` returns rows by their numbers. The other arguments are those of ``row_products``.
    """
    with evaluation_mode(model):
        found = [
            row_products(model, objective, some, parameters, direction).double().cpu()
            for part in torch.arange(count).split(PASS_ROWS)
            for some in parts_of(model, rows(part), passes=2)
        ]
    return torch.cat(found)


def mean_loss_gradient(
    model: nn.Module, objective: Objective, query: Iterable[tuple[Inputs, Tensor]]
) -> dict[str, Tensor]:
    """Returns the gradient of the mean query loss at the model's present weights, in evaluation mode.

    Args:
        model: the model.
        objective: the objective of the queries.
        query: batches of (inputs, labels).

    Returns:
        trained parameter -> gradient, in the shape of the parameter.

    Raises:
        AttributionError: there are no queries.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    with evaluation_mode(model):
        for inputs, labels in query:
            loss = objective.losses(predict(model, inputs), labels).sum()
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, value in zip(parameters, found, strict=True):
                if value is not None:
                    sums[name] += value
            count += len(labels)
    if count == 0:
        raise AttributionError("There are no queries.", "Give at least one batch of queries.")
    return {name: value / count for name, value in sums.items()}
