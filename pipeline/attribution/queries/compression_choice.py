"""Whether the filters of single queries are compressed: only where that takes fewer operations in all.

Costs of one query in one layer and one segment are counted in products of a matrix ``[out, in]`` with a vector, which
take 2·in·out operations each. T is the number of positions of an example, Q of queries, V of visits (rows times
checkpoints), r of terms:

    dense        2·(in + out)                    rotated into the eigenbasis and back
                 + V·(1 + T/Q)                   products with rows, whose matrices are formed for all queries together
                                                 (T/Q is 0 for one position: nothing is formed)
    vectors      V·(1 + (in² + out²)/(Q·in·out)) products with rows, which are rotated for all queries together
                                                 (in place of dense ones, where ``vector_filters`` can be)
    compressed   100·max(8, T)                   the query's gradient as few terms
                 + 100·max(8, r)                 the filter as few terms
                 + V·T·r·(in + out)/(in·out)     products with rows, term by term

The number 100 is measured: compression to r terms takes the time of 90 to 110 products a term, for 10 to 250 terms of
matrices from 128×129 to 512×785 on one core. Counted are 4 products for each of 2r columns, in double precision. Most
of the time is spent on reading the matrix, for few columns at a time.

The number of terms isn't known before a filter is compressed. So a few queries are compressed first, and their mean
number of terms is taken. Nothing is measured by the clock, so the same data give the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

# How many products with a vector a term takes to find.
_TERM_PRODUCTS = 100
# The terms that compression tries first: fewer take as long.
_LEAST_TERMS = 8
# How many queries are compressed to see how many terms a layer's filters need.
TRIED = 2


class _Terms(Protocol):
    """Compressed filters of several queries: the query of each term, and the number of queries."""

    @property
    def owner(self) -> Tensor: ...

    @property
    def count(self) -> int: ...


@dataclass(frozen=True)
class LayerCost:
    """The costs of one query's filters of one layer, in products of a matrix with a vector.

    Attributes:
        shape: (out, in).
        positions: T, outer products in an example's gradient.
        queries: Q, how many queries are scored.
        visits: V of each segment: rows times checkpoints.
        direct: whether the filters are compressed as they are, as under Adam or after a refined solve: then no terms of
            the query's gradient are needed, and the rotation is done in any case.
        vectors: whether filters that aren't compressed stay vectors.
    """

    shape: tuple[int, int]
    positions: int
    queries: int
    visits: Sequence[int]
    direct: bool
    vectors: bool = False

    def dense(self) -> float:
        if self.vectors:
            size_out, size_in = self.shape
            rotated = (size_in**2 + size_out**2) / (size_in * size_out * self.queries)
            return sum(visits * (1 + rotated) for visits in self.visits)
        formed = self.positions / self.queries if self.positions > 1 else 0.0
        rotations = 0 if self.direct else 2 * sum(self.shape)
        return sum(rotations + visits * (1 + formed) for visits in self.visits)

    def compressed(self, terms: Sequence[float]) -> float:
        """The cost with these mean numbers of terms of each segment."""
        size_out, size_in = self.shape
        each = self.positions * (size_in + size_out) / (size_in * size_out)
        gradient = 0 if self.direct else _TERM_PRODUCTS * max(_LEAST_TERMS, min(self.positions, *self.shape))
        return gradient + sum(
            _TERM_PRODUCTS * max(_LEAST_TERMS, count) + visits * count * each
            for visits, count in zip(self.visits, terms, strict=True)
        )


@dataclass(frozen=True)
class CompressionChoice:
    """Decides for every layer, by its first queries: whether filters are compressed, and in which precision.

    Attributes:
        visits: of each segment, first to last: the rows that it trained on times its checkpoints.
        queries: how many queries are scored.
        positions: layer -> the outer products in an example's gradient. None: its gradients are matrices in any case,
            so it is never compressed. A layer that isn't here, such as an embedding, is always compressed: its dense
            filters would have a column for every word.
        dtype: of the model. Filters that stay dense get it, and are computed in it where that is exact enough.
        vectors: layers whose filters stay vectors where they aren't compressed: ``vector_filters.vector_layers``.
    """

    visits: Sequence[int]
    queries: int
    positions: Mapping[str, int | None]
    dtype: torch.dtype
    vectors: Collection[str] = ()
    _chosen: dict[tuple[str, Sequence[int]], bool] = field(default_factory=dict)
    _computed_in: dict[str, torch.dtype] = field(default_factory=dict)

    def compresses(
        self,
        layer: str,
        given: Tensor,
        segments: Sequence[int],
        compress: Callable[[Tensor], Sequence[_Terms]],
        *,
        direct: bool,
    ) -> bool:
        """Returns whether the layer's filters in some segments are compressed.

        Args:
            layer: its name.
            given: ``[queries, out, in]``, of the first queries: what ``compress`` takes.
            segments: their places.
            compress: gives the filters of some queries in these segments, compressed.
            direct: as in ``LayerCost``.
        """
        if layer not in self.positions:
            return True
        positions, key = self.positions[layer], (layer, tuple(segments))
        if positions is None:
            return False
        if key not in self._chosen:
            visits = [self.visits[place] for place in segments]
            shape, vectors = (given.shape[1], given.shape[2]), layer in self.vectors
            cost = LayerCost(shape, positions, self.queries, visits, direct, vectors)
            chosen = cost.compressed([1.0] * len(visits)) < cost.dense()
            if chosen:
                tried = compress(given[:TRIED])
                chosen = cost.compressed([len(each.owner) / each.count for each in tried]) < cost.dense()
            self._chosen[key] = chosen
        return self._chosen[key]

    def precision(self, layer: str, exact_enough: Callable[[], bool]) -> torch.dtype:
        """Returns the dtype in which a layer's dense filters are computed.

        Args:
            layer: its name.
            exact_enough: whether filters in the model's dtype are; asked once for each layer.
        """
        if layer not in self._computed_in:
            self._computed_in[layer] = self.dtype if exact_enough() else torch.float64
        return self._computed_in[layer]
