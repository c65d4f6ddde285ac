"""The loss gradients of queries, and the weights at which they are taken."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.factor_sums import add_tensors
from pipeline.attribution.errors import AttributionError, NonFiniteError
from pipeline.attribution.gradients.formed_gradients import FormedGradients
from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.model.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.model.calls import Inputs, select_inputs
from pipeline.attribution.model.capture import Capture, capture, covered_layers
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.compression import DENSE_BYTES
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.trajectory.points import Points
from pipeline.attribution.trajectory.weights import restore_weights

_NONE = "There are no queries.", "Give at least one batch of queries, or query=None."


@dataclass(frozen=True)
class Queries:
    """The queries whose losses are attributed.

    Attributes:
        batches: the queries as batches of (inputs, labels).
        objective: the objective whose losses are attributed.
        at: the weights at which the loss gradients are taken: ``tail`` for the tail average, ``final`` for the last
            checkpoint.
        reduced: whether the mean loss is attributed, or the loss of each query.
    """

    batches: Iterable[tuple[Inputs, Tensor]]
    objective: Objective
    at: str
    reduced: bool


def load_query_point(points: Points, rows: StageRows, at: str) -> None:
    """Loads the weights at which the queries' loss gradients are taken.

    Args:
        points: the weights that can be loaded, and the model.
        rows: the rows from which the BatchNorm statistics of the tail average are re-estimated.
        at: ``tail`` or ``final``, as in ``Queries``.
    """
    model, trajectory = points.model, points.trajectory
    if at == "final":
        points.load(len(trajectory.checkpoints) - 1)
        return
    restore_weights(model, trajectory.load_tail(), trajectory.tail or "")
    if has_batchnorm(model):
        reestimate_batchnorm(model, (batch.inputs for batch in rows))


def mean_query_gradient(model: nn.Module, queries: Queries) -> dict[str, Tensor]:
    """Returns layer -> gradient of the mean loss at the model's present weights, float64 ``[out, in]``.

    Raises:
        AttributionError: there are no queries, or a query has a class that the model doesn't know.
        NonFiniteError: the gradient of a query has NaN or infinity. The message names the query.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for inputs, labels in queries.batches:
        sums = add_tensors(sums, mean_gradient_sums(model, queries.objective, inputs, labels))
        count += len(labels)
    if count == 0:
        raise AttributionError(*_NONE)
    if not _finite(sums):
        _raise_not_finite(model, queries)
    return {name: value / count for name, value in sums.items()}


def query_gradient_parts(
    model: nn.Module, queries: Queries, vectors: Collection[str] | None = None
) -> Iterator[dict[str, Tensor | OuterProducts]]:
    """Yields layer -> loss gradients of a few queries at a time, in the model's dtype.

    Args:
        model: at the weights where the gradients are taken.
        queries: the queries.
        vectors: None yields matrices ``[queries, out, in]``. Else outer products stay as they are, and no matrices will
            be formed of these layers'.

    Raises:
        AttributionError, NonFiniteError: as ``mean_query_gradient``.
    """
    formed = [layer.shape for layer in covered_layers(model) if layer.name not in (vectors or ())]
    numbers = sum(size_out * size_in for size_out, size_in in formed)
    step, count = max(1, DENSE_BYTES // max(1, 8 * numbers)), 0
    for inputs, labels in queries.batches:
        for start in range(0, len(labels), step):
            some = slice(start, start + step)
            with capture(model) as captured:
                losses = _losses(captured, queries.objective, select_inputs(inputs, some), labels[some])
                found = {
                    name: each if vectors is not None and isinstance(each, OuterProducts) else each.matrices()
                    for name, each in captured.gradients(losses, torch.ones_like(losses))
                }
            if not _finite(found):
                _raise_not_finite(model, queries)
            yield found
        count += len(labels)
    if count == 0:
        raise AttributionError(*_NONE)


def query_positions(model: nn.Module, queries: Queries) -> dict[str, int | None]:
    """Returns layer -> the outer products in the gradient of the first query.

    None stands for gradients that are kept as matrices. Layers whose inputs are one-hot are left out.
    """
    for inputs, labels in queries.batches:
        one = slice(0, 1)
        with capture(model) as captured:
            losses = _losses(captured, queries.objective, select_inputs(inputs, one), labels[one])
            return {
                name: None if isinstance(gradients, FormedGradients) else gradients.positions
                for name, gradients in captured.gradients(losses, torch.ones_like(losses))
                if not isinstance(gradients, IndexedGradients)
            }
    raise AttributionError(*_NONE)


def _finite(gradients: Mapping[str, Tensor | OuterProducts]) -> bool:
    sums = [
        value.sum(dtype=torch.float64)
        for each in gradients.values()
        for value in ((each.inputs, each.outputs) if isinstance(each, OuterProducts) else (each,))
    ]
    return not sums or bool(torch.isfinite(torch.stack(sums)).all())


def _raise_not_finite(model: nn.Module, queries: Queries) -> NoReturn:
    """Raises the error for gradients that aren't finite. It looks at one query at a time to name the first such one."""
    count = 0
    for inputs, labels in queries.batches:
        for row in range(len(labels)):
            one = slice(row, row + 1)
            found = mean_gradient_sums(model, queries.objective, select_inputs(inputs, one), labels[one])
            if not _finite(found):
                raise NonFiniteError(
                    f"The gradient of query {count + row} has NaN or infinity.",
                    "Look for NaN in its inputs and label, and for a training run that diverged.",
                )
        count += len(labels)
    raise NonFiniteError(
        "The gradient of the queries has NaN or infinity, that of no query alone.",
        "Look for very large numbers in the queries.",
    )


def check_classes(objective: Objective, outputs: Tensor, labels: Tensor) -> None:
    """Checks that the model has an output for every class among the labels, if the labels are classes.

    Args:
        objective: the objective of the queries.
        outputs: the model's outputs for a batch of queries, ``[batch, …, classes]``.
        labels: the labels of the batch.

    Raises:
        AttributionError: a label is a class that the model has no output for.
    """
    if objective.unknown_labels is None or not len(labels):
        return
    classes = outputs.shape[-1]
    unknown = objective.unknown_labels(labels, classes)
    if len(unknown):
        raise AttributionError(
            f"A query has the class {int(unknown[0])}, but the model has {classes} outputs, classes 0 to "
            f"{classes - 1}.",
            "Leave out queries of classes that training didn't know.",
        )


def mean_gradient_sums(
    model: nn.Module, objective: Objective, inputs: Inputs, labels: Tensor, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns layer -> Σ over examples of the loss gradient, float64 ``[out, in]``.

    Divide the sum over all batches by the number of examples for the mean.

    Args:
        model: the model.
        objective: the objective.
        inputs: the model's inputs; the batch is the first dimension.
        labels: the labels of the batch.
        weights: ``[batch]``, the factor of each example's loss; None is 1.

    Raises:
        AttributionError: a label is a class that the model has no output for.
    """
    with capture(model) as captured:
        losses = _losses(captured, objective, inputs, labels)
        scale = torch.ones_like(losses) if weights is None else weights.to(losses)
        return {name: gradients.total() for name, gradients in captured.gradients(losses, scale)}


def query_gradients(
    model: nn.Module, objective: Objective, inputs: Inputs, labels: Tensor
) -> dict[str, Tensor]:
    """Returns layer -> the loss gradient of each example, ``[batch, out, in]``. It is for scores of single queries.

    Raises:
        AttributionError: a label is a class that the model has no output for.
    """
    with capture(model) as captured:
        losses = _losses(captured, objective, inputs, labels)
        ones = torch.ones_like(losses)
        return {name: gradients.matrices() for name, gradients in captured.gradients(losses, ones)}


def _losses(captured: Capture, objective: Objective, inputs: Inputs, labels: Tensor) -> Tensor:
    outputs = captured.forward(inputs)
    check_classes(objective, outputs, labels)
    return objective.losses(outputs, labels)
