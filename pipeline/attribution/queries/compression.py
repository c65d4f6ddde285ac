"""Low-rank filters: a few outer products per layer and query, in place of a dense matrix.

The loss gradient of a query is a sum of few outer products, and its filters are numerically of low rank. A filter
Σ_r u_r v_rᵀ takes r·(in + out) numbers instead of in·out. Its inner product with a row's gradient Σ_positions g aᵀ is
Σ_positions Σ_r (u_r·g)(v_r·a), which takes r·(in + out) operations per position.

A compressed filter loses at most the share ``tolerance`` of its Frobenius norm. Its inner product with a row's gradient
G is therefore wrong by at most ``tolerance · ‖filter‖ · ‖G‖`` (Cauchy–Schwarz). Random projections with one power
iteration find the range of a matrix (Halko, Martinsson, Tropp, "Finding structure with randomness", 2011). The norm of
the part that is left out is measured, not estimated.

Under Adam, a filter P^{1/2} ∘ V is largest where gradients are smallest, by factors of 10⁴ and more, so a few such
entries make up most of its norm. The norm is therefore taken of the filter times the sizes of gradients, √v̂ ≈ 1/P. Such
filters need more terms; in small layers they may need all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline.attribution.curvature.segments import PreparedSegment, query_filters
from pipeline.attribution.gradients.indexed_gradients import IndexedGradients
from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients
from pipeline.attribution.gradients.outer_products import DenseGradients, OuterProducts
from pipeline.attribution.gradients.products import slices_of
from pipeline.attribution.gradients.tied_gradients import TiedGradients
from pipeline.attribution.queries.compression_choice import TRIED, CompressionChoice
from pipeline.attribution.queries.dense_filters import dense_layer, gradient_sizes
from pipeline.attribution.queries.vector_filters import VectorFilters, vector_filters

# The share of a filter's Frobenius norm that compression may lose.
TOLERANCE = 1e-2
# The same for the loss gradients of queries, whose rank is at most their number of positions: only rounding is lost.
EXACT = 1e-6
# The most bytes of dense matrices that are formed at a time.
DENSE_BYTES = 64 << 20
# The number of terms that is tried first.
_SKETCH = 8


@dataclass(frozen=True)
class LowRankMatrices:
    """One matrix Σ_r u_r v_rᵀ per query. The ranks may differ.

    Attributes:
        left: u, ``[terms, out]``.
        right: v, ``[terms, in]``.
        owner: int64 ``[terms]``, the query that a term belongs to, ascending.
        count: the number of queries. The matrix of a query without terms is zero.
    """

    left: Tensor
    right: Tensor
    owner: Tensor
    count: int

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes

    @property
    def row_bytes(self) -> int:
        """The size of one dense matrix in bytes."""
        return self.left.shape[1] * self.right.shape[1] * self.left.element_size()

    def to(self, like: Tensor) -> LowRankMatrices:
        """Returns the same matrices in the dtype and on the device of ``like``."""
        owner = self.owner.to(like.device)
        return LowRankMatrices(self.left.to(like), self.right.to(like), owner, self.count)

    def dense(self, queries: slice) -> Tensor:
        """Returns some matrices in dense form: ``[queries, out, in]``."""
        ends = torch.searchsorted(self.owner, torch.arange(self.count + 1).to(self.owner)).tolist()
        terms = [slice(first, last) for first, last in list(pairwise(ends))[queries]]
        return torch.stack([self.left[each].T @ self.right[each] for each in terms])

    def rotated(self, basis: Eigenbasis) -> LowRankMatrices:
        """Returns Q_Sᵀ V Q_A of every matrix V."""
        right = self.right if basis.input is None else self.right @ basis.input
        left = self.left if basis.gradient.dim() == 1 else self.left @ basis.gradient
        return LowRankMatrices(left, right, self.owner, self.count)

    def rotated_back(self, basis: Eigenbasis) -> LowRankMatrices:
        """Returns Q_S V Q_Aᵀ of every matrix V."""
        right = self.right if basis.input is None else self.right @ basis.input.T
        left = self.left if basis.gradient.dim() == 1 else self.left @ basis.gradient.T
        return LowRankMatrices(left, right, self.owner, self.count)

    def times(self, factor: Tensor, tolerance: float) -> LowRankMatrices:
        """Returns F ∘ V of every matrix V, compressed.

        Args:
            factor: F, ``[out, in]``.
            tolerance: the share of each result's Frobenius norm that may be lost.
        """
        slices = slices_of(self.count, self.row_bytes, DENSE_BYTES)
        return joined([compress(factor * self.dense(queries), tolerance) for queries in slices])


# The filters of a layer: dense ``[queries, out, in]`` or ``[out, in]``, compressed, or of queries as vectors.
Filter: TypeAlias = Tensor | LowRankMatrices | VectorFilters


def joined(parts: Sequence[LowRankMatrices]) -> LowRankMatrices:
    """Returns the matrices of all parts, one part after the other."""
    owners, before = [], 0
    for part in parts:
        owners.append(part.owner + before)
        before += part.count
    left, right = torch.cat([part.left for part in parts]), torch.cat([part.right for part in parts])
    return LowRankMatrices(left, right, torch.cat(owners), before)


def compress(matrices: Tensor, tolerance: float, squared_norms: Tensor | None = None) -> LowRankMatrices:
    """Compresses every matrix to the fewest terms whose error is within the tolerance.

    Args:
        matrices: ``[queries, out, in]``.
        tolerance: the largest Frobenius norm of the error, as a share of the matrix's norm.
        squared_norms: ``[queries]``, the squares of the norms that ``tolerance`` is a share of; None takes the
            Frobenius norms of the matrices.
    """
    norms = matrices.square().sum((1, 2)) if squared_norms is None else squared_norms
    count, size_out, size_in = matrices.shape
    found: dict[int, tuple[Tensor, Tensor]] = {}
    waiting, size = list(range(count)), _SKETCH
    while waiting:
        some = matrices[waiting] if len(waiting) < count else matrices
        whole = 2 * size > min(size_out, size_in)
        left, values, right = _decomposed(some, None if whole else size)
        dropped = some.square().sum((1, 2))[:, None] - torch.nn.functional.pad(
            values.square().cumsum(1), (1, 0)
        )
        enough = dropped <= tolerance**2 * norms[waiting, None]
        enough[:, -1] |= whole
        ranks = torch.where(enough.any(1), enough.int().argmax(1), -1).tolist()
        for place, query, rank in zip(range(len(waiting)), waiting, ranks):
            if rank >= 0:
                scaled = left[place, :, :rank].T * values[place, :rank, None]
                found[query] = scaled, right[place, :rank]
        waiting = [query for query, rank in zip(waiting, ranks) if rank < 0]
        size *= 2
    terms = [found[query] for query in range(count)]
    ranks_of = torch.tensor([len(left) for left, _ in terms], device=matrices.device)
    owner = torch.arange(count, device=matrices.device).repeat_interleave(ranks_of)
    empty = matrices.new_zeros(0, size_out), matrices.new_zeros(0, size_in)
    left, right = (torch.cat(part) for part in zip(empty, *terms))
    return LowRankMatrices(left, right, owner, count)


def _decomposed(matrices: Tensor, size: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns singular value decompositions, with about the largest ``size`` singular values, or all for None.

    Returns:
        (U ``[queries, out, size]``, S ``[queries, size]``, Vᵀ ``[queries, size, in]``).
    """
    if size is None:
        return torch.linalg.svd(matrices, full_matrices=False)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrices.shape[2], size, generator=generator, dtype=torch.float64).to(matrices)
    image = torch.linalg.qr(matrices @ start)[0]
    basis = torch.linalg.qr(matrices @ (matrices.mT @ image))[0]
    left, values, right = torch.linalg.svd(basis.mT @ matrices, full_matrices=False)
    return basis @ left, values, right


def compressed_filters(
    gradients: Mapping[str, Tensor | OuterProducts],
    segments: Sequence[PreparedSegment],
    tolerance: float = TOLERANCE,
    choice: CompressionChoice | None = None,
) -> list[dict[str, Filter]]:
    """Returns the filters of several queries, compressed; ``segments.query_filters`` returns the dense ones.

    Args:
        gradients: layer -> loss gradients, ``[queries, out, in]`` or as outer products.
        segments: first to last.
        tolerance: the share of a filter's Frobenius norm that may be lost in the last segment. In an earlier segment,
            the errors of the later transports are added. For a layer with a preconditioner, it is the share of the norm
            of filter ∘ sizes of gradients, in every segment.
        choice: leaves layers dense where compression takes longer; None compresses all.

    Returns:
        One dictionary per segment, first to last, with the layers of ``gradients``.
    """
    filters: list[dict[str, Filter]] = [{} for _ in segments]
    for name, gradient in gradients.items():
        scaled = any(segment.scaled(name) for segment in segments)
        compressed: Callable[[Tensor], list[LowRankMatrices]] = partial(
            _scaled_layer if scaled else _plain_layer, name, segments=segments, tolerance=tolerance
        )
        tried, places = _matrices(gradient, slice(TRIED)), range(len(segments))
        found: Sequence[Filter]
        if choice is None or choice.compresses(name, tried, places, compressed, direct=scaled):
            found = _in_slices(compressed, gradient)
        elif name in choice.vectors and isinstance(gradient, OuterProducts):
            found = [vector_filters(name, gradient, segments[0])]
        else:
            found = dense_layer(name, gradient, segments, tolerance, choice)
        for place, of_segment in enumerate(filters):
            of_segment[name] = found[place]
    return filters


def _matrices(gradient: Tensor | OuterProducts, queries: slice) -> Tensor:
    """Returns the gradients of some queries as matrices."""
    return gradient[queries] if isinstance(gradient, Tensor) else gradient.sliced(queries).matrices()


def _in_slices(
    compressed: Callable[[Tensor], list[LowRankMatrices]], gradient: Tensor | OuterProducts
) -> list[LowRankMatrices]:
    """Returns a layer's compressed filters per segment. The matrices of few queries at a time are formed."""
    if isinstance(gradient, Tensor):
        return compressed(gradient)
    matrix_bytes = 8 * gradient.outputs.shape[2] * gradient.size_in
    slices = slices_of(len(gradient.inputs), matrix_bytes, DENSE_BYTES)
    parts = [compressed(_matrices(gradient, queries)) for queries in slices]
    return [joined(of_segment) for of_segment in zip(*parts, strict=True)]


def _plain_layer(
    name: str, gradient: Tensor, segments: Sequence[PreparedSegment], tolerance: float
) -> list[LowRankMatrices]:
    """Returns a layer's filters per segment. The query gradients stay compressed from segment to segment."""
    gradient = gradient.double()
    slices = slices_of(len(gradient), gradient[0].nbytes, DENSE_BYTES)
    query = joined([compress(gradient[queries], EXACT) for queries in slices])
    found: list[LowRankMatrices] = []
    for segment in reversed(segments):
        basis, sigma = segment.bases[name].to(gradient), segment.curvature(name).to(gradient)
        rotated = query.rotated(basis)
        injected = rotated.times(segment.spectrum.injection(sigma), tolerance)
        found.insert(0, injected.rotated_back(basis))
        if len(found) < len(segments):
            query = rotated.times(segment.spectrum.transport(sigma), tolerance).rotated_back(basis)
    return found


def _scaled_layer(
    name: str, gradient: Tensor, segments: Sequence[PreparedSegment], tolerance: float
) -> list[LowRankMatrices]:
    """Returns the filters per segment of a layer with a preconditioner.

    P^{1/2} ∘ V doesn't have the low rank of V, so the query gradients stay dense and only the filters are compressed.
    """
    gradient = gradient.double()
    found: list[list[LowRankMatrices]] = [[] for _ in segments]
    for queries in slices_of(len(gradient), gradient[0].nbytes, DENSE_BYTES):
        for place, dense in enumerate(query_filters({name: gradient[queries]}, segments)):
            sizes = gradient_sizes(name, segments[place], gradient)
            found[place].append(_compress_for(dense[name], sizes, tolerance))
    return [joined(parts) for parts in found]


def _compress_for(matrices: Tensor, sizes: Tensor, tolerance: float) -> LowRankMatrices:
    """Compresses matrices as ``compress`` does, with an error that is weighted by the sizes of gradients.

    Without the weights, the few entries where filters are large and gradients small would decide about the error. The
    matrices are scaled by the mean sizes per row and column before they are compressed.

    Args:
        matrices: ``[queries, out, in]``.
        sizes: ``[out, in]``, the sizes of the gradients that the matrices will be multiplied by.
        tolerance: the largest error, as a share of the norm of matrices ∘ sizes.
    """
    squares = sizes.square()
    rows, columns = squares.mean(1).sqrt(), (squares.mean(0) / squares.mean()).nan_to_num().sqrt()
    norms = (matrices * sizes).square().sum((1, 2))
    found = compress(rows[:, None] * matrices * columns, tolerance, norms)
    left, right = (
        torch.where(scale > 0, side / scale, 0.0)
        for side, scale in ((found.left, rows), (found.right, columns))
    )
    return LowRankMatrices(left, right, found.owner, found.count)


def compressed_segment(
    filters: Mapping[str, Tensor],
    segment: PreparedSegment,
    tolerance: float,
    choice: CompressionChoice | None = None,
    place: int = 0,
) -> dict[str, Filter]:
    """Compresses the dense filters of one segment as ``compressed_filters`` does.

    Args:
        filters: layer -> ``[queries, out, in]``.
        segment: the segment.
        tolerance, choice: as in ``compressed_filters``.
        place: the segment's place, for ``choice``.
    """
    found: dict[str, Filter] = {}
    for name, dense in filters.items():

        def compressed(some: Tensor, name: str = name) -> list[LowRankMatrices]:
            sizes = gradient_sizes(name, segment, some)
            slices = slices_of(len(some), some[0].nbytes, DENSE_BYTES)
            return [joined([_compress_for(some[queries], sizes, tolerance) for queries in slices])]

        if choice is None or choice.compresses(name, dense, [place], compressed, direct=True):
            found[name] = compressed(dense)[0]
        else:
            found[name] = dense.to(choice.dtype)
    return found


def joined_filters(parts: Iterable[Sequence[Mapping[str, Filter]]]) -> list[dict[str, Filter]]:
    """Joins the filters of some queries at a time into those of all queries.

    The compressed filters of a layer are made dense if a row takes fewer operations then.

    Args:
        parts: for some queries at a time, one dictionary per segment: layer -> filters.

    Returns:
        One dictionary per segment: layer -> the filters of all queries.
    """
    found: list[dict[str, list[Filter]]] = []
    for part in parts:
        found = found or [{} for _ in part]
        for of_segment, filters in zip(found, part, strict=True):
            for name, each in filters.items():
                of_segment.setdefault(name, []).append(each)
    # A layer's parts are freed before those of the next layer are joined.
    return [{name: _whole(of_segment.pop(name)) for name in list(of_segment)} for of_segment in found]


def _whole(parts: Sequence[Filter]) -> Filter:
    """Returns the filters of one layer for all queries."""
    if isinstance(parts[0], VectorFilters):
        return parts[0].joined([part for part in parts[1:] if isinstance(part, VectorFilters)])
    compressed = [part for part in parts if isinstance(part, LowRankMatrices)]
    if not compressed:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    whole = joined(compressed)
    size_out, size_in = whole.left.shape[1], whole.right.shape[1]
    if len(whole.owner) * (size_out + size_in) < whole.count * size_out * size_in:
        return whole
    return whole.dense(slice(None))


def products(gradients: LayerGradients, filters: LowRankMatrices | VectorFilters) -> Tensor:
    """Returns the inner products ⟨filter, G⟩ of every query with every example: ``[queries, batch]``."""
    if isinstance(filters, VectorFilters):
        return filters.products(gradients)
    compact = gradients.compact()
    if isinstance(compact, IndexedGradients):
        terms = _indexed_terms(compact, filters)
    elif isinstance(compact, OuterProducts) and _pays(compact, filters):
        terms = _outer_terms(compact, filters)
    elif isinstance(compact, TiedGradients) and _pays(compact, filters):
        terms = _outer_terms(compact.linear, filters) + _tied_terms(compact, filters)
    else:
        return _dense_products(compact, filters)
    return terms.new_zeros(filters.count, terms.shape[1]).index_add_(0, filters.owner, terms)


def _pays(gradients: OuterProducts | TiedGradients, filters: LowRankMatrices) -> bool:
    """Returns whether a row takes fewer operations with the terms than with dense matrices."""
    size_out, size_in = filters.left.shape[1], filters.right.shape[1]
    by_terms = gradients.positions * len(filters.owner) * (size_out + size_in)
    return by_terms <= (gradients.positions + filters.count) * size_out * size_in


def _outer_terms(gradients: OuterProducts, filters: LowRankMatrices) -> Tensor:
    """Returns (u·g)(v·a), summed over positions: ``[terms, batch]``."""
    row_bytes = gradients.positions * max(1, len(filters.owner)) * gradients.inputs.element_size()
    found = [filters.left.new_zeros(len(filters.owner), 0)]
    for rows in slices_of(len(gradients.inputs), row_bytes, DENSE_BYTES):
        sides = gradients.outputs[rows] @ filters.left.T, gradients.inputs[rows] @ filters.right.T
        found.append((sides[0] * sides[1]).sum(1).T)
    return torch.cat(found, 1)


def _indexed_terms(gradients: IndexedGradients, filters: LowRankMatrices) -> Tensor:
    """Returns the same for one-hot inputs, where v·a is an entry of v."""
    row_bytes = gradients.positions * max(1, len(filters.owner)) * gradients.outputs.element_size()
    found = [filters.left.new_zeros(len(filters.owner), 0)]
    for rows in slices_of(len(gradients.tokens), row_bytes, DENSE_BYTES):
        sides = gradients.outputs[rows] @ filters.left.T, filters.right.T[gradients.tokens[rows]]
        found.append((sides[0] * sides[1]).sum(1).T)
    return torch.cat(found, 1)


def _tied_terms(gradients: TiedGradients, filters: LowRankMatrices) -> Tensor:
    """Returns the same for the tokens of a tied weight, which are rows of the matrix: u's entry times v·h."""
    row_bytes = gradients.tokens.shape[1] * max(1, len(filters.owner)) * gradients.rows.element_size()
    found = [filters.left.new_zeros(len(filters.owner), 0)]
    for rows in slices_of(len(gradients.tokens), row_bytes, DENSE_BYTES):
        sides = filters.left.T[gradients.tokens[rows]], gradients.rows[rows] @ filters.right.T
        found.append((sides[0] * sides[1]).sum(1).T)
    return torch.cat(found, 1)


def _dense_products(gradients: object, filters: LowRankMatrices) -> Tensor:
    assert isinstance(gradients, DenseGradients | OuterProducts | TiedGradients)
    if isinstance(gradients, TiedGradients):
        rows = gradients.shape[0]
    else:
        rows = len(gradients.matrices if isinstance(gradients, DenseGradients) else gradients.inputs)
    found = filters.left.new_zeros(filters.count, rows)
    for some in slices_of(rows, filters.row_bytes, DENSE_BYTES):
        matrices = gradients.dense(some).flatten(1).T
        for queries in slices_of(filters.count, filters.row_bytes, DENSE_BYTES):
            found[queries, some] = filters.dense(queries).flatten(1) @ matrices
    return found
