"""Self-influence: every row is its own query, so queries are as many as rows and stay in factored form.

For one segment and one position everything is vectors:
score = Σ ((g̃_q ∘ g̃_c) F_r(Λ)) ∘ (ã_q ∘ ã_c), with q the final checkpoint and c each of the segment's.
Into an earlier segment the query arrives as a sum of such pairs of vectors (``low_rank``). A few positions of a wide
layer meet in Gram matrices, F_r(Λ) being a few outer products. Many positions form matrices ``[out, in]`` instead, in
slices of the batch within a byte budget; ``forms`` decides.
Embeddings work column by column, on the tokens that a row has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.attribution.curvature.segments import (
    LayerChain,
    LayerSegment,
    PreconditionedChain,
    turn_outputs,
)
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.indexed_gradients import IndexedGradients, MergedColumns
from pipeline.attribution.gradients.layer_gradients import HeldGradients, rotate, rotate_back, rotate_outputs
from pipeline.attribution.gradients.outer_products import DenseGradients, OuterProducts, row_slices
from pipeline.attribution.gradients.products import CACHE_BYTES, inner_products, product, slices_of
from pipeline.attribution.gradients.tied_gradients import TiedGradients
from pipeline.attribution.scores.form_choice import DENSE, GRAM, Positions, chain_form

# Gradients whose matrices can be formed for some rows.
_Dense = OuterProducts | DenseGradients | TiedGradients


def self_products(
    query: HeldGradients, training: Sequence[HeldGradients | None], chain: LayerChain | PreconditionedChain
) -> Tensor:
    """Σ_segments mean_checkpoints <F_r(H) S q, G> for every row of a batch.

    Args:
        query: each row's gradient at the final checkpoint.
        training: per segment, each row's gradient summed over the segment's checkpoints; None where the segment
            trained on other rows.
        chain: the layer's segments, first to last.

    Returns:
        float64 ``[batch]``, without the factor 1/N.
    """
    if isinstance(chain, PreconditionedChain):
        return _preconditioned_products(query, training, chain)
    if chain.uniform is not None and training[0] is not None:
        return chain.uniform * _plain_products(query, training[0]) / chain.segments[0].checkpoints
    if isinstance(query, IndexedGradients):
        return _indexed_products(query, training, chain.segments)
    factored = [part for part in training if isinstance(part, OuterProducts | None)]
    if isinstance(query, OuterProducts) and len(factored) == len(training):
        counts = [0 if part is None else part.positions for part in factored]
        form = chain_form(chain, Positions(query.positions, counts)).form
        if form != DENSE:
            return _factored_products(query, factored, chain, form == GRAM)
    return _dense_products(query, training, chain.segments)


def _plain_products(query: HeldGradients, training: HeldGradients) -> Tensor:
    """<G, G'> of every row: float64 ``[batch]``."""
    if isinstance(query, IndexedGradients):
        mine = query.merged()
        found = torch.zeros(len(query.tokens), dtype=torch.float64, device=mine.columns.device)
        return found.index_add_(0, mine.rows, (mine.columns * _same_columns(mine, training)).sum(1).double())
    if isinstance(query, OuterProducts) and isinstance(training, OuterProducts):
        grams = query.outputs @ training.outputs.mT, query.inputs @ training.inputs.mT
        return (grams[0] * grams[1]).flatten(1).sum(1).double()
    assert isinstance(query, _Dense)
    assert isinstance(training, _Dense)
    everything = query.dense(slice(None)), training.dense(slice(None))
    return (everything[0] * everything[1]).flatten(1).sum(1).double()


def _factored_products(
    query: OuterProducts, training: Sequence[OuterProducts | None], chain: LayerChain, gram: bool
) -> Tensor:
    scores = torch.zeros(len(query.inputs), dtype=torch.float64, device=query.inputs.device)
    for place, (segment, arrival, theirs) in enumerate(
        zip(chain.segments, chain.maps_from_end, training, strict=True)
    ):
        if theirs is None:
            continue
        most = max(query.positions * len(arrival), theirs.positions)
        row_bytes = most * (query.inputs[0, 0].nbytes + query.outputs[0, 0].nbytes) if len(scores) else 1
        for rows in slices_of(len(scores), row_bytes, 4 * CACHE_BYTES):
            mine, others = query.sliced(rows), theirs.sliced(rows)
            arrived = OuterProducts(*arrival.apply(mine.inputs, mine.outputs))
            # With equal inputs and one term both sides have the same rotated inputs.
            shared = theirs.inputs is query.inputs and segment is chain.segments[-1]
            inputs = arrived.inputs if shared else product(others.inputs, _input_basis(segment))
            rotated = OuterProducts(inputs, rotate_outputs(others.outputs, segment.basis))
            if gram:
                products = _gram_products(arrived, rotated, *chain.injections[place])
            else:
                products = _pair_products(arrived, rotated, segment.injection)
            scores[rows] += products.double() / segment.checkpoints
    return scores


def _count(gradients: _Dense) -> int:
    """Returns the number of examples."""
    if isinstance(gradients, TiedGradients):
        return gradients.shape[0]
    return len(gradients.inputs if isinstance(gradients, OuterProducts) else gradients.matrices)


def _input_basis(segment: LayerSegment) -> Tensor:
    assert segment.basis.input is not None
    return segment.basis.input


def _pair_products(first: OuterProducts, second: OuterProducts, weights: Tensor) -> Tensor:
    """Σ over pairs of positions of (g_p ∘ g_q)ᵀ weights (a_p ∘ a_q): ``[batch]``."""
    if first.positions > second.positions:
        first, second = second, first
    total = torch.zeros(len(first.inputs), dtype=weights.dtype, device=weights.device)
    for place in range(first.positions):
        one = slice(place, place + 1)
        filtered = product(second.outputs * first.outputs[:, one], weights)
        total += inner_products(filtered.mul_(first.inputs[:, one]), second.inputs)
    return total


def _gram_products(first: OuterProducts, second: OuterProducts, left: Tensor, right: Tensor) -> Tensor:
    """Σ over terms and pairs of positions of ((g_p ∘ left_k)·g_q) ((a_p ∘ right_k)·a_q): ``[batch]``."""
    if first.positions > second.positions:
        first, second = second, first
    total = first.inputs.new_zeros(len(first.inputs))
    outputs, inputs = second.outputs.mT, second.inputs.mT
    for of_outputs, of_inputs in zip(left, right, strict=True):
        gram = (first.outputs * of_outputs) @ outputs
        total += gram.mul_((first.inputs * of_inputs) @ inputs).flatten(1).sum(1)
    return total


def _dense_products(
    query: HeldGradients, training: Sequence[HeldGradients | None], segments: Sequence[LayerSegment]
) -> Tensor:
    assert isinstance(query, _Dense)
    batch = _count(query)
    scores = torch.zeros(batch, dtype=torch.float64, device=segments[0].injection.device)
    for rows in row_slices(batch, segments[0].injection):
        moving = query.dense(rows, segments[-1].basis)
        for place in range(len(segments) - 1, -1, -1):
            segment, theirs = segments[place], training[place]
            if theirs is not None:
                assert isinstance(theirs, _Dense)
                own = theirs is query and segment is segments[-1]
                gradients = moving if own else theirs.dense(rows, segment.basis)
                products = inner_products(segment.injection * moving, gradients)
                scores[rows] += products.double() / segment.checkpoints
            if place > 0:
                moving = _transported(moving, segment, segments[place - 1])
    return scores


def _transported(moving: Tensor, later: LayerSegment, earlier: LayerSegment) -> Tensor:
    """F_S of the later segment, and on into the earlier one's eigenbasis."""
    moving = later.transport * moving
    if later.basis.input is None:  # a diagonal block, whose basis is the identity in every segment
        return moving
    turn_in = _input_basis(later).T @ _input_basis(earlier)
    return turn_outputs(moving.mT, later, earlier).mT @ turn_in


def _indexed_products(
    query: IndexedGradients, training: Sequence[HeldGradients | None], segments: Sequence[LayerSegment]
) -> Tensor:
    mine = query.merged()
    moving = rotate_outputs(mine.columns, segments[-1].basis)
    scores = torch.zeros(len(query.tokens), dtype=torch.float64, device=moving.device)
    for place in range(len(segments) - 1, -1, -1):
        segment, gradients = segments[place], training[place]
        if gradients is not None:
            rotated = rotate_outputs(_same_columns(mine, gradients), segment.basis)
            products = (moving * rotated * segment.injection.T[mine.tokens]).sum(1)
            scores.index_add_(0, mine.rows, products.double() / segment.checkpoints)
        if place > 0:
            moving = turn_outputs(segment.transport.T[mine.tokens] * moving, segment, segments[place - 1])
    return scores


def _same_columns(mine: MergedColumns, gradients: HeldGradients) -> Tensor:
    """The columns of a row's gradient at another checkpoint, for the very tokens of ``mine``."""
    assert isinstance(gradients, IndexedGradients)
    theirs = gradients.merged()
    if not torch.equal(mine.tokens, theirs.tokens) or not torch.equal(mine.rows, theirs.rows):
        raise AttributionError(
            "An embedding got other tokens for the same row at another checkpoint.",
            "Make the token numbers depend on the inputs alone.",
        )
    return theirs.columns


def _preconditioned_products(
    query: HeldGradients, training: Sequence[HeldGradients | None], chain: PreconditionedChain
) -> Tensor:
    """``self_products`` where a segment scales parameters by themselves: queries return to parameter space between
    segments."""
    if isinstance(query, IndexedGradients):
        return _preconditioned_columns(query, training, chain)
    assert isinstance(query, _Dense)
    batch, one = _count(query), query.dense(slice(0, 1))
    scores = torch.zeros(batch, dtype=torch.float64, device=one.device)
    for rows in row_slices(batch, one):
        moving = query.dense(rows)
        for segment, theirs in reversed(list(zip(chain.segments, training, strict=True))):
            if segment.layer is None:
                continue
            layer, preconditioner = segment.layer, segment.preconditioner
            rotated = rotate(preconditioner.preconditioned(moving), layer.basis)
            if theirs is not None:
                assert isinstance(theirs, _Dense)
                gradients = rotate(preconditioner.preconditioned(theirs.dense(rows)), layer.basis)
                products = inner_products(layer.injection * rotated, gradients)
                scores[rows] += products.double() / layer.checkpoints
            moved = rotate_back(layer.transport * rotated, layer.basis)
            moving = preconditioner.passed(moving, moved)
    return scores


def _preconditioned_columns(
    query: IndexedGradients, training: Sequence[HeldGradients | None], chain: PreconditionedChain
) -> Tensor:
    """Column by column, a column per distinct token of a row."""
    mine = query.merged()
    moving = mine.columns
    scores = torch.zeros(len(query.tokens), dtype=torch.float64, device=moving.device)
    for segment, theirs in reversed(list(zip(chain.segments, training, strict=True))):
        if segment.layer is None:
            continue
        layer, preconditioner = segment.layer, segment.preconditioner.of_columns(mine.tokens)
        rotated = rotate_outputs(preconditioner.preconditioned(moving), layer.basis)
        if theirs is not None:
            gradients = rotate_outputs(
                preconditioner.preconditioned(_same_columns(mine, theirs)), layer.basis
            )
            products = (rotated * gradients * layer.injection.T[mine.tokens]).sum(1)
            scores.index_add_(0, mine.rows, products.double() / layer.checkpoints)
        moved = layer.transport.T[mine.tokens] * rotated
        if layer.basis.gradient.dim() == 2:
            moved = moved @ layer.basis.gradient.T
        moving = preconditioner.passed(moving, moved)
    return scores
