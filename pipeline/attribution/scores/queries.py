"""Influence of training rows on many queries: one forward and backward pass per checkpoint serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.errors import NonFiniteError
from pipeline.attribution.model.capture import capture
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.compression import LowRankMatrices, products
from pipeline.attribution.rows.batch import Batch


def query_influences(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batches: Sequence[Batch],
    segments: Sequence[PreparedSegment],
    train_rows: int,
    filters: Sequence[Mapping[str, LowRankMatrices]],
) -> Tensor:
    """τ(query, row), float64 ``[queries, rows]`` on the CPU, in nats: the predicted rise of the query's loss when the
    row is removed (arXiv 2405.12186, Eq. 24, with its 1/N).

    Args:
        model: changed in place by ``load_checkpoint``.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        batches: the rows; a row's influence doesn't depend on how they are batched.
        segments: first to last.
        train_rows: N, the number of rows that training averaged over.
        filters: per segment, from ``query_compression.compressed_filters``.

    Raises:
        NonFiniteError: an influence is NaN or infinite.
    """
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    total: list[Tensor | None] = [None] * len(batches)
    with capture(model) as captured:
        for segment, of_segment in zip(segments, filters, strict=True):
            there = {layer: each.to(like) for layer, each in of_segment.items()}
            share = train_rows * len(segment.checkpoints)
            for checkpoint in segment.checkpoints:
                load_checkpoint(checkpoint)
                for place, batch in enumerate(batches):
                    losses = objective.losses(captured.forward(batch.inputs), batch.labels)
                    weights = torch.ones_like(losses) if batch.weights is None else batch.weights.to(losses)
                    for layer, gradients in captured.gradients(losses, weights):
                        added = products(gradients, there[layer]).double() / share
                        before = total[place]  # on the model's device: the host waits for it once, at the end
                        total[place] = added if before is None else before.add_(added)
    found = torch.cat([each for each in total if each is not None], 1).cpu()
    if not torch.isfinite(found).all():
        raise NonFiniteError(
            "An influence on a query is NaN or infinite.",
            "Look for NaN in the queries and for a training run that diverged.",
        )
    return found
