"""Filters of single queries as dense matrices, in the model's precision where that is exact enough."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.attribution.curvature.segments import PreparedSegment, query_filters
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.queries.compression_choice import CompressionChoice

# The share of the tolerance that single precision may lose. Else filters are computed in double precision.
_ROUNDING = 0.1


def dense_layer(
    name: str,
    gradient: Tensor | OuterProducts,
    segments: Sequence[PreparedSegment],
    tolerance: float,
    choice: CompressionChoice,
) -> list[Tensor]:
    """Returns a layer's dense filters per segment, in the dtype of the model.

    They are computed in this dtype if the filters of the first query then are what they are in double precision, but
    for a small part of the tolerance.
    """

    def filters(dtype: torch.dtype, queries: slice = slice(None)) -> list[Tensor]:
        if isinstance(gradient, OuterProducts):
            some: Tensor | OuterProducts = gradient.sliced(queries).in_precision(dtype)
        else:
            some = gradient[queries].to(dtype)
        return [each[name] for each in query_filters({name: some}, segments)]

    def exact_enough() -> bool:
        first = slice(1)
        exact, quick = filters(torch.float64, first), filters(choice.dtype, first)
        return all(
            float(_weighted_norm(name, segment, rounded.to(right) - right))
            <= _ROUNDING * tolerance * float(_weighted_norm(name, segment, right))
            for segment, right, rounded in zip(segments, exact, quick, strict=True)
        )

    found = filters(choice.precision(name, exact_enough))
    return [each.to(choice.dtype) for each in found]


def _weighted_norm(name: str, segment: PreparedSegment, matrices: Tensor) -> Tensor:
    return (matrices * gradient_sizes(name, segment, matrices)).norm()


def gradient_sizes(name: str, segment: PreparedSegment, like: Tensor) -> Tensor:
    """Returns the sizes of a layer's gradients according to the preconditioner: 1/P, which is about √v̂ under Adam.

    The result is ``[out, in]``. It is 0 for frozen parameters, and 1 for a layer without a preconditioner.
    """
    preconditioner = segment.preconditioners.get(name)
    if preconditioner is None or preconditioner.root is None:
        return like.new_ones(like.shape[1:])
    root = preconditioner.root.to(like)
    return torch.where(root > 0, root**-2, 0.0)
