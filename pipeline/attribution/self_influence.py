"""Self-influence: every row is its own query, so queries are as many as rows and stay in factored form.

For one segment and one position everything is vectors:
score = Σ ((g̃_q ∘ g̃_c) F_r(Λ)) ∘ (ã_q ∘ ã_c), with q the final checkpoint and c each of the segment's.
Several positions or segments form matrices ``[out, in]``, in slices of the batch within a byte budget.
Across segments the query stays a sum of outer products as long as that is cheaper: F_S(Λ) is numerically of
low rank, and F_S(Λ) ∘ (g̃ ãᵀ) ≈ Σ_r (u_r ∘ g̃)(v_r ∘ ã)ᵀ.
Embeddings work column by column, on the tokens that a row has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients import DenseGradients, HeldGradients, OuterProducts, row_slices
from pipeline.attribution.indexed_gradients import IndexedGradients
from pipeline.attribution.transport import LayerSegment


def self_products(
    query: HeldGradients, training: Sequence[HeldGradients], segments: Sequence[LayerSegment]
) -> Tensor:
    """Σ_segments mean_checkpoints <F_r(H) S q, G> for every row of a batch.

    Args:
        query: each row's gradient at the final checkpoint.
        training: per segment, each row's gradient summed over the segment's checkpoints.
        segments: the layer's segments, first to last.

    Returns:
        float64 ``[batch]``, without the factor 1/N.
    """
    if isinstance(query, IndexedGradients):
        return _indexed_products(query, training, segments)
    if isinstance(query, OuterProducts) and query.positions == 1 and len(segments) == 1:
        return _vector_products(query, training[0], segments[0])
    return _dense_products(query, training, segments)


def _vector_products(query: OuterProducts, training: HeldGradients, segment: LayerSegment) -> Tensor:
    assert isinstance(training, OuterProducts)
    mine, theirs = query.rotated(segment.basis), training.rotated(segment.basis)
    filtered = (mine.outputs * theirs.outputs) @ segment.injection
    return (filtered * (mine.inputs * theirs.inputs)).sum((1, 2)).double() / segment.checkpoints


def _dense_products(
    query: HeldGradients, training: Sequence[HeldGradients], segments: Sequence[LayerSegment]
) -> Tensor:
    assert isinstance(query, OuterProducts | DenseGradients)
    batch = len(query.inputs if isinstance(query, OuterProducts) else query.matrices)
    scores = [torch.zeros(0, dtype=torch.float64, device=segments[0].injection.device)]
    for rows in row_slices(batch, segments[0].injection):
        moving = _start(query, rows, segments[-1])
        total = torch.zeros((), dtype=torch.float64, device=scores[0].device)
        for place in range(len(segments) - 1, -1, -1):
            segment, theirs = segments[place], training[place]
            assert isinstance(theirs, OuterProducts | DenseGradients)
            gradients = theirs.dense(rows, segment.basis)
            products = (segment.injection * moving.dense(slice(None)) * gradients).sum((1, 2))
            total = total + products.double() / segment.checkpoints
            if place > 0:
                moving = _transported(moving, segment, segments[place - 1])
        scores.append(total)
    return torch.cat(scores)


def _start(
    query: OuterProducts | DenseGradients, rows: slice, segment: LayerSegment
) -> OuterProducts | DenseGradients:
    """The query of some rows in a segment's eigenbasis."""
    if isinstance(query, OuterProducts) and query.cheaper_factored(query.positions):
        return query.sliced(rows).rotated(segment.basis)
    return DenseGradients(query.dense(rows, segment.basis))


def _transported(
    moving: OuterProducts | DenseGradients, later: LayerSegment, earlier: LayerSegment
) -> OuterProducts | DenseGradients:
    """F_S of the later segment, and on into the earlier one's eigenbasis."""
    turn_out = later.basis.gradient.T @ earlier.basis.gradient
    assert later.basis.input is not None
    assert earlier.basis.input is not None
    turn_in = later.basis.input.T @ earlier.basis.input
    if isinstance(moving, OuterProducts) and later.transport_factors is not None:
        left, right = later.transport_factors
        if moving.cheaper_factored(moving.positions * len(left)):
            outputs = (moving.outputs[:, :, None] * left).flatten(1, 2)
            inputs = (moving.inputs[:, :, None] * right).flatten(1, 2)
            return OuterProducts(inputs @ turn_in, outputs @ turn_out)
    return DenseGradients(turn_out.T @ (later.transport * moving.dense(slice(None))) @ turn_in)


def _indexed_products(
    query: IndexedGradients, training: Sequence[HeldGradients], segments: Sequence[LayerSegment]
) -> Tensor:
    mine = query.merged()
    moving = mine.columns @ segments[-1].basis.gradient
    scores = torch.zeros(len(query.tokens), dtype=torch.float64, device=moving.device)
    for place in range(len(segments) - 1, -1, -1):
        segment, gradients = segments[place], training[place]
        assert isinstance(gradients, IndexedGradients)
        theirs = gradients.merged()
        if not torch.equal(mine.tokens, theirs.tokens) or not torch.equal(mine.rows, theirs.rows):
            raise AttributionError(
                "An embedding got other tokens for the same row at another checkpoint.",
                "Make the token numbers depend on the inputs alone.",
            )
        rotated = theirs.columns @ segment.basis.gradient
        products = (moving * rotated * segment.injection.T[mine.tokens]).sum(1)
        scores.index_add_(0, mine.rows, products.double() / segment.checkpoints)
        if place > 0:
            moving = segment.transport.T[mine.tokens] * moving
            moving = moving @ (segment.basis.gradient.T @ segments[place - 1].basis.gradient)
    return scores
