"""Scores by a similarity of features, for rows in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError, NonFiniteError
from pipeline.attribution.queries.gradients import Queries, check_classes
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.similarity import Similarity, inverse_of, passes, products_of
from pipeline.attribution.scores.table import Scores


def compared_scores(
    model: nn.Module,
    similarity: Similarity,
    method: str,
    stages: Sequence[StageRows],
    queries: Queries | None,
    projection: int,
    seed: int,
) -> Scores:
    """Compares all rows with the queries at the model's present weights.

    Args:
        model: the model, with the weights of the query point.
        similarity: the features that are compared.
        method: the name of the method, which the scores bear.
        stages: the rows of every stage; a row of several stages counts as one of the last.
        queries: the queries, or None.
        projection: the number of numbers that gradients are projected to.
        seed: the seed of the projection.

    Raises:
        AttributionError: there are no rows or no queries, a query has a class that the model doesn't know, or
            ``projection`` is less than 1.
        NonFiniteError: a feature is NaN or infinite.
    """
    of_queries = None if queries is None else _query_features(model, similarity, queries, projection, seed)
    parts: dict[str, list[Tensor]] = {"features": [], "losses": [], "margins": [], "numbers": []}
    metric: Tensor | None = None
    batches = ((batch, rows.objective) for rows in stages for batch in rows)
    for visit in passes(model, similarity, batches, projection, seed):
        margins = visit.margins()
        parts["losses"].append(visit.losses()[0].cpu())
        parts["margins"] += [] if margins is None else [margins.double().cpu()]
        parts["features"].append(similarity.rows(visit).double().cpu())
        parts["numbers"].append(visit.batch.row_ids)
        if similarity.metric is not None:
            part = similarity.metric(visit).cpu()
            metric = part if metric is None else metric + part
    found = {name: torch.cat(tensors) for name, tensors in parts.items() if tensors}
    if not found:
        raise AttributionError("There are no training rows.", "Give at least one batch.")
    for name in ("features", "losses", "margins"):
        _check_finite(found.get(name), "training row {}, in the order given,")
    influence, own = products_of(
        found["features"], of_queries, None if metric is None else inverse_of(metric)
    )
    last = _last_places(found["numbers"])
    influence = None if influence is None else influence[:, last]
    return Scores(
        None if own is None else own[last],
        None if influence is None else -influence.mean(0),
        None if queries is None or queries.reduced else influence,
        found["losses"][None, last],
        found["margins"][None, last] if "margins" in found else None,
        method=method,
    )


def _query_features(
    model: nn.Module, similarity: Similarity, queries: Queries, projection: int, seed: int
) -> Tensor:
    """Returns the features of the queries ``[queries, features]``; of the mean query alone if they are reduced."""
    parts = []
    batches = (
        (Batch(inputs, labels, torch.arange(len(labels))), queries.objective)
        for inputs, labels in queries.batches
    )
    for visit in passes(model, similarity, batches, projection, seed):
        check_classes(queries.objective, visit.outputs, visit.batch.labels)
        parts.append(similarity.queries(visit).double().cpu())
    if not parts:
        raise AttributionError("There are no queries.", "Give at least one batch of queries, or query=None.")
    features = torch.cat(parts)
    _check_finite(features, "query {}")
    return features.mean(0, keepdim=True) if queries.reduced else features


def _last_places(numbers: Tensor) -> Tensor:
    """Returns where each row comes last, int64 ``[rows]``, of the numbers of rows in the order in which they come."""
    last = torch.zeros(int(numbers.max()) + 1, dtype=torch.int64)
    return last.scatter_reduce_(0, numbers, torch.arange(len(numbers)), "amax")


def _check_finite(values: Tensor | None, what: str) -> None:
    if values is None or torch.isfinite(values).all():
        return
    place = int((~torch.isfinite(values)).reshape(len(values), -1).any(1).nonzero()[0])
    raise NonFiniteError(
        f"What the model makes of {what.format(place)} has a NaN or an infinity.",
        "Look for NaN in it and for a training run that diverged.",
    )
