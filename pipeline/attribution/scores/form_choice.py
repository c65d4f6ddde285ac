"""Which form of a layer's per-example gradients is cheapest, by counting operations and bytes.

An example's gradient is Σ_positions g aᵀ. Self-influence multiplies the query's with the training gradients',
weighted by F_r(Λ), in one of four forms:

    rank one         pairs of positions: (g̃_q ∘ g̃_c)ᵀ F_r (ã_q ∘ ã_c); no matrix per example
    low-rank filter  the same where the query has come through earlier transports as a few terms
    Gram             pairs of positions, F_r ≈ Σ_k u_k v_kᵀ: Σ_k ((g̃_q ∘ u_k)·g̃_c) ((ã_q ∘ v_k)·ã_c)
    dense            matrices [out, in] per example, in slices

and an embedding is handled token by token, a normalisation's scale and shift number by number. Operations count
a multiplication and an addition as two. A dense matrix is written and read several times and its bytes count
far more than its operations. Gram matrices are not exact: they are for several positions, where they save much;
with one position the filter costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients
from pipeline.attribution.gradients.grouped_gradients import GroupedGradients
from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.gradients.tied_gradients import TiedGradients
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.model.capture import LayerInfo, capture, covered_layers
from pipeline.attribution.options import WIDEST_OUTPUTS

if TYPE_CHECKING:
    from pipeline.attribution.curvature.segments import LayerChain

RANK_ONE, LOW_RANK, GRAM, DENSE = "rank one", "low-rank filter", "Gram", "dense"
BY_TOKEN, DIAGONAL = "by token", "diagonal"
# Operations that take as long as moving a byte to or from memory: about 90 GFLOP/s against 9 GB/s a core.
OPERATIONS_PER_BYTE = 10.0
# How often a dense matrix is written or read per segment: formed, filtered, multiplied, transported.
_DENSE_VISITS = 6
# Of single precision.
_NUMBER_BYTES = 4
# Terms of a transport that is not known yet; measured ranks are 3 to 10.
_TYPICAL_TERMS = 6
# Terms of an injection that is not known yet; measured ranks are 2 to 10.
_TYPICAL_RANK = 5
# The share of the cheapest exact form's cost that Gram matrices may take.
_WORTH = 0.8


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
        form: ``rank one``, ``low-rank filter``, ``Gram``, ``dense``, ``by token`` or ``diagonal``.
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


@dataclass(frozen=True)
class Terms:
    """How many outer products stand for the matrices of each segment, first to last.

    Attributes:
        query: of a query that has come through the later segments' transports; 1 in the last segment.
        injection: of F_r(Λ); None where it must stay exact.
    """

    query: Sequence[int]
    injection: Sequence[int] | None = None


def choose_form(layer: LayerInfo, positions: Positions, terms: Terms | None) -> FormChoice:
    """The one decision. ``terms`` is None where a query stays a dense matrix."""
    dense = _dense(layer, positions)
    if terms is None:
        return dense
    exact = min(_factored(layer, positions, terms), dense, key=lambda choice: choice.cost)
    if terms.injection is None or positions.query == 1:
        return exact
    gram = _gram(layer, positions, terms.query, terms.injection)
    return gram if gram.cost < _WORTH * exact.cost else exact


def chain_form(chain: LayerChain, positions: Positions) -> FormChoice:
    """``choose_form`` for a layer whose factors are known; factorises transports and F_r only if that may pay."""
    size_out, size_in = chain.segments[0].injection.shape
    basis = chain.segments[0].basis
    diagonal = (basis.gradient.dim() == 1, basis.input is None)
    layer = LayerInfo("", "", (size_out, size_in), 0, False, (), diagonal=diagonal)
    count = len(chain.segments)
    ones = [1] * count
    if chain.tolerance <= 0:
        return choose_form(layer, positions, Terms(ones) if count == 1 else None)
    choice = choose_form(layer, positions, Terms(ones, ones))
    if choice.form == DENSE or (choice.form == RANK_ONE and count == 1):
        return choice
    queries = ones if count == 1 else [len(each) for each in chain.maps_from_end]
    ranks = [len(left) for left, _ in chain.injections] if choice.form == GRAM else None
    return choose_form(layer, positions, Terms(queries, ranks))


def layer_forms(
    model: nn.Module,
    inputs: Inputs,
    *,
    checkpoints: int = 6,
    segments: int = 1,
    tolerance: float = 1e-3,
    preconditioned: bool = False,
    widest_outputs: int = WIDEST_OUTPUTS,
) -> list[FormChoice]:
    """The form of every covered layer, from a forward and backward pass over a few rows.

    Transports are taken to have six terms and F_r(Λ) five, as factors are not needed here. ``tolerance`` is that
    of self-influence; with 0 only exact forms are chosen. ``preconditioned``: under Adam, where gradients of weights
    stay matrices. ``widest_outputs`` is that of ``coverage``.
    """
    terms: Terms | None = Terms([_TYPICAL_TERMS] * (segments - 1) + [1], [_TYPICAL_RANK] * segments)
    if tolerance <= 0:
        terms = Terms([1]) if segments == 1 else None
    choices = []
    layers = {layer.name: layer for layer in covered_layers(model, widest_outputs)}
    with capture(model) as captured:
        outputs = captured.forward(inputs)
        for name, gradients in captured.gradients(outputs, torch.ones_like(outputs)):
            layer, each = layers[name], checkpoints // segments
            if isinstance(gradients, IndexedGradients):
                choices.append(_by_token(layer, gradients.positions, checkpoints))
                continue
            if isinstance(gradients, DiagonalGradients):
                choices.append(_diagonal(layer, checkpoints))
                continue
            held = gradients.compact()
            count = held.positions if isinstance(held, OuterProducts) else gradients.positions
            # Where inputs are the same at all checkpoints, outer products are added up.
            training = count if name in captured.fixed_layers() else each * count
            positions = Positions(count, [training] * segments)
            matrices_only = preconditioned or isinstance(gradients, GroupedGradients | TiedGradients)
            choices.append(choose_form(layer, positions, None if matrices_only else terms))
    return choices


def _factored(layer: LayerInfo, positions: Positions, terms: Terms) -> FormChoice:
    size_out, size_in = layer.shape
    operations, moved = 0, 0
    for count, training in zip(terms.query, positions.training, strict=True):
        query = positions.query * count
        operations += _rotation(query + training, layer) + 2 * query * training * size_in * size_out
        moved += _NUMBER_BYTES * (query + training + 2 * query * training) * (size_in + size_out)
    form = RANK_ONE if max(terms.query) == 1 else LOW_RANK
    return FormChoice(layer.name, layer.kind, positions.query, form, operations, moved)


def _gram(layer: LayerInfo, positions: Positions, terms: Sequence[int], ranks: Sequence[int]) -> FormChoice:
    width = sum(layer.shape)
    operations, moved = 0, 0
    for count, rank, training in zip(terms, ranks, positions.training, strict=True):
        query = positions.query * count
        scaled, pairs = rank * min(query, training), rank * query * training
        operations += _rotation(query + training, layer) + (2 * pairs + scaled) * width + 2 * pairs
        moved += _NUMBER_BYTES * ((query + training + 2 * scaled) * width + 4 * pairs)
    return FormChoice(layer.name, layer.kind, positions.query, GRAM, operations, moved)


def _rotation(vectors: int, layer: LayerInfo) -> int:
    """Operations of rotating so many output gradients and inputs."""
    return 2 * vectors * (_per_vector(layer, 0) ** 2 + _per_vector(layer, 1) ** 2)


def _per_vector(layer: LayerInfo, side: int) -> int:
    """The operations that a rotation takes for each number of a vector; 0 where the basis is the identity."""
    return 0 if layer.diagonal[side] else layer.shape[side]


def _dense(layer: LayerInfo, positions: Positions) -> FormChoice:
    size_out, size_in = layer.shape
    weights, rotation = size_in * size_out, _per_vector(layer, 0) + _per_vector(layer, 1)
    operations = 0
    for place, count in enumerate([positions.query, *positions.training]):
        operations += 2 * min(count, size_out) * _per_vector(layer, 1) ** 2
        operations += 2 * min(count, size_in) * _per_vector(layer, 0) ** 2
        operations += 2 * count * weights + 2 * weights
        if place > 1:  # each segment but one is reached through a transport and a turn
            operations += 2 * weights * rotation
    moved = _NUMBER_BYTES * _DENSE_VISITS * weights * len(positions.training)
    return FormChoice(layer.name, layer.kind, positions.query, DENSE, operations, moved)


def _by_token(layer: LayerInfo, positions: int, checkpoints: int) -> FormChoice:
    size_out = layer.shape[0]
    operations = 2 * positions * (checkpoints + 1) * size_out * (size_out + 2)
    moved = 4 * positions * (checkpoints + 1) * 2 * size_out
    return FormChoice(layer.name, layer.kind, positions, BY_TOKEN, operations, moved)


def _diagonal(layer: LayerInfo, checkpoints: int) -> FormChoice:
    numbers = (checkpoints + 1) * layer.shape[0] * layer.shape[1]
    return FormChoice(layer.name, layer.kind, 1, DIAGONAL, 3 * numbers, _NUMBER_BYTES * numbers)
