"""Which form of a layer's per-example gradients is cheapest, by counting operations and bytes.

An example's gradient is Σ_positions g aᵀ. Self-influence multiplies the query's with the training gradients',
weighted by F_r(Λ), in one of three forms:

    rank one         pairs of positions: (g̃_q ∘ g̃_c)ᵀ F_r (ã_q ∘ ã_c); no matrix per example
    low-rank filter  the same where the query has come through earlier transports as a few terms
    dense            matrices [out, in] per example, in slices

and an embedding is handled token by token. Operations count a multiplication and an addition as two. A dense
matrix is written and read several times and its bytes count far more than its operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.attribution.capture import Inputs, LayerInfo, capture
from pipeline.attribution.indexed_gradients import IndexedGradients

if TYPE_CHECKING:
    from pipeline.attribution.transport import LayerChain

RANK_ONE, LOW_RANK, DENSE, BY_TOKEN = "rank one", "low-rank filter", "dense", "by token"
# Operations that take as long as moving a byte to or from memory: about 90 GFLOP/s against 9 GB/s a core.
OPERATIONS_PER_BYTE = 10.0
# How often a dense matrix is written or read per segment: formed, filtered, multiplied, transported.
_DENSE_VISITS = 6
# Terms of a transport that is not known yet; measured ranks are 3 to 10.
_TYPICAL_TERMS = 6


@dataclass(frozen=True)
class Positions:
    """Outer products that make up an example's gradients.

    Attributes:
        query: in the query.
        training: in each segment's training gradients, summed over the segment's checkpoints.
    """

    query: int
    training: Sequence[int]


@dataclass(frozen=True)
class FormChoice:
    """The cheapest form of one layer, for one example and all checkpoints.

    Attributes:
        layer, kind: name and rule of the layer.
        positions: outer products in one gradient.
        form: ``rank one``, ``low-rank filter``, ``dense`` or ``by token``.
        operations: floating point operations.
        bytes: bytes moved to and from memory, in single precision.
    """

    layer: str
    kind: str
    positions: int
    form: str
    operations: int
    bytes: int

    @property
    def cost(self) -> float:
        """In operations."""
        return self.operations + OPERATIONS_PER_BYTE * self.bytes


def choose_form(
    layer: LayerInfo, positions: Positions, terms: Sequence[int] | None, *, number_bytes: int = 4
) -> FormChoice:
    """The one decision. ``terms`` are those of the query per segment, None where it stays a dense matrix."""
    size_out, size_in = layer.shape
    dense = _dense(layer, positions, number_bytes)
    if terms is None:
        return dense
    operations, moved = 0, 0
    for count, training in zip(terms, positions.training, strict=True):
        query = positions.query * count
        operations += (
            2 * (query + training) * (size_in**2 + size_out**2) + 2 * query * training * size_in * size_out
        )
        moved += number_bytes * (query + training + 2 * query * training) * (size_in + size_out)
    form = RANK_ONE if max(terms) == 1 else LOW_RANK
    factored = FormChoice(layer.name, layer.kind, positions.query, form, operations, moved)
    return min(factored, dense, key=lambda choice: choice.cost)


def chain_form(chain: LayerChain, positions: Positions) -> FormChoice:
    """``choose_form`` for a layer whose factors are known; factorises its transports only if that may pay."""
    size_out, size_in = chain.segments[0].injection.shape
    layer = LayerInfo("", "", (size_out, size_in), 0, False, ())
    count = len(chain.segments)
    if count > 1 and chain.tolerance <= 0:
        return choose_form(layer, positions, None)
    optimistic = choose_form(layer, positions, [1] * count)
    if count == 1 or optimistic.form == DENSE:
        return optimistic
    return choose_form(layer, positions, [len(arrival) for arrival in chain.arrivals])


def layer_forms(
    model: nn.Module, inputs: Inputs, *, checkpoints: int = 6, segments: int = 1
) -> list[FormChoice]:
    """The form of every covered layer, from a forward and backward pass over a few rows.

    Transports are taken to have six terms, as factors are not needed here.
    """
    choices = []
    with capture(model) as captured:
        layers = {layer.name: layer for layer in captured.layers}
        outputs = captured.forward(inputs)
        for name, gradients in captured.gradients(outputs, torch.ones_like(outputs)):
            layer, each = layers[name], checkpoints // segments
            if isinstance(gradients, IndexedGradients):
                choices.append(_by_token(layer, gradients.positions, checkpoints))
                continue
            # Where inputs are the same at all checkpoints, outer products are added up.
            training = gradients.positions if name in captured.fixed_layers() else each * gradients.positions
            terms = [_TYPICAL_TERMS] * (segments - 1) + [1]
            choices.append(choose_form(layer, Positions(gradients.positions, [training] * segments), terms))
    return choices


def _dense(layer: LayerInfo, positions: Positions, number_bytes: int) -> FormChoice:
    size_out, size_in = layer.shape
    weights, rotation = size_in * size_out, size_in + size_out
    operations = 0
    for place, count in enumerate([positions.query, *positions.training]):
        operations += 2 * (min(count, size_out) * size_in**2 + min(count, size_in) * size_out**2)
        operations += 2 * count * weights + 2 * weights
        if place > 1:  # each segment but one is reached through a transport and a turn
            operations += 2 * weights * rotation
    moved = number_bytes * _DENSE_VISITS * weights * len(positions.training)
    return FormChoice(layer.name, layer.kind, positions.query, DENSE, operations, moved)


def _by_token(layer: LayerInfo, positions: int, checkpoints: int) -> FormChoice:
    size_out = layer.shape[0]
    operations = 2 * positions * (checkpoints + 1) * size_out * (size_out + 2)
    moved = 4 * positions * (checkpoints + 1) * 2 * size_out
    return FormChoice(layer.name, layer.kind, positions, BY_TOKEN, operations, moved)
