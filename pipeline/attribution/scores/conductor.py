"""The algorithm behind scores by gradients: its order, wherever the rows are.

    plan      the segments of training, and where each takes gradients              ``plan.plan_chains``
    fit       their curvature, where the method has one                             ``fit.fit``
    filters   what the segments' training gradients are multiplied with             ``find_filters``
    scale     one number to have scores in nats, where it is defined                ``find_scale``
    scores    a pass over the rows at every point                                   ``score_chains``

Rows in memory go this way in ``in_memory.py``. Audits and traces go it in chunks of rows on workers, in
``pipeline/scoring/`` and ``pipeline/trace/``, and leave a file after every step. What a method needs of a step is data,
``methods.Method``; no step asks for a method by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.segments import PreparedSegment, query_filters
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.outer_products import OuterProducts
from pipeline.attribution.methods import CALIBRATE, Method
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.compression import Filter, compressed_filters, compressed_segment
from pipeline.attribution.queries.compression_choice import CompressionChoice
from pipeline.attribution.queries.refined import RefinedDirection, passed_on
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.plan import PlannedSegment
from pipeline.attribution.scores.rows import (
    HELD_BYTES,
    SELF_INFLUENCE_TOLERANCE,
    BatchScores,
    score_rows,
)

# One dictionary per segment, first to last: layer -> filter.
Filters = Sequence[Mapping[str, Filter]]
# Solves for a query in the segment at a place, with sums over its rows: ``refined.solve_refined``.
Solve = Callable[[int, Mapping[str, Tensor]], RefinedDirection]


@dataclass(frozen=True)
class Chain:
    """Segments whose last one ends training, or counts as its end: planned, and fitted."""

    planned: Sequence[PlannedSegment]
    prepared: Sequence[PreparedSegment]


@dataclass(frozen=True)
class FoundFilters:
    """What training gradients are multiplied with.

    Attributes:
        filters: one dictionary per segment, first to last: layer -> ``[out, in]`` of one query, ``[queries, out, in]``
            of several, or several compressed.
        alphas: per segment what a refined solve was scaled by, ``[queries]``; empty where nothing was solved for.
    """

    filters: Filters
    alphas: Sequence[Tensor] = ()


def find_filters(
    method: Method,
    chain: Chain,
    gradient: Mapping[str, Tensor | OuterProducts],
    solve: Solve | None = None,
    tolerance: float = 0.0,
    choice: CompressionChoice | None = None,
) -> FoundFilters:
    """Carries a query's gradient, or several queries', back through the segments, or solves for it in each.

    Args:
        gradient: layer -> ``[out, in]``, or ``[queries, out, in]``, or queries as outer products. Features of methods
            that compare these stay as they are.
        solve: for refined methods.
        tolerance: share of a filter, by its norm, that compression may lose (``compression``); 0 compresses nothing,
            and a single query is never compressed.
        choice: leaves layers dense where compression takes longer; None compresses all.

    Raises:
        AttributionError: a refined method, and a segment whose learning rates are 0.
    """
    if method.similarity is None and not method.refined and tolerance > 0:
        return FoundFilters(compressed_filters(gradient, chain.prepared, tolerance, choice))
    matrices = {
        name: each.matrices() if isinstance(each, OuterProducts) else each for name, each in gradient.items()
    }
    if method.similarity is not None:
        return FoundFilters([matrices])
    matrices = {name: each.double() for name, each in matrices.items()}
    if not method.refined:
        return FoundFilters(query_filters(matrices, chain.prepared))
    assert solve is not None
    found = _solved_back(chain, matrices, solve)
    filters: Filters = [each.filters for each in found]
    if tolerance > 0:
        filters = [
            compressed_segment(each.filters, segment, tolerance, choice, place)
            for place, (each, segment) in enumerate(zip(found, chain.prepared, strict=True))
        ]
    return FoundFilters(filters, [each.alpha for each in found])


def _solved_back(chain: Chain, gradient: Mapping[str, Tensor], solve: Solve) -> list[RefinedDirection]:
    """From the last segment to the first: what a segment passes on is its own solution over its learning rates."""
    check_solvable(chain.planned)
    found: list[RefinedDirection] = []
    for place in reversed(range(len(chain.planned))):
        found.insert(0, solve(place, gradient))
        if place:
            lr_sum = chain.planned[place].lr_sum
            gradient = passed_on(chain.prepared[place], gradient, found[0].filters, lr_sum)
    return found


def check_solvable(planned: Sequence[PlannedSegment]) -> None:
    """Raises AttributionError where a segment's learning rates are 0, so that queries can't be solved for."""
    for segment in planned:
        if segment.damping is None or segment.fitted_on is None:
            raise AttributionError(
                "A refined solve needs learning rates above 0, and those up to checkpoint "
                f"{segment.points[-1]} are 0.",
                "Use a method that isn't refined, such as 'source'.",
            )


def find_scale(
    method: Method, planned: Sequence[PlannedSegment], measure: Callable[[], float]
) -> float | None:
    """What harm is multiplied with to be in nats; None where that is not defined.

    Args:
        measure: takes α from some rows (``scale``); called where it is defined. Filters of refined methods hold it.
    """
    if method.refined:
        return 1.0
    defined = CALIBRATE in method.options and len(planned) == 1 and planned[0].damping is not None
    return measure() if defined else None


def score_chains(
    model: nn.Module,
    load_point: Callable[[int], None],
    objective: Objective,
    batches: Sequence[Batch],
    chains: Sequence[Sequence[PreparedSegment]],
    train_rows: int,
    queries: Mapping[str, Sequence[Filters]],
    *,
    self_influence: bool = True,
    self_influence_tolerance: float = SELF_INFLUENCE_TOLERANCE,
    held_bytes: int = HELD_BYTES,
) -> BatchScores:
    """Scores of rows by all chains of a method together: ``score_rows`` of each, added up.

    Args:
        model, load_point, objective, batches, train_rows: as in ``score_rows``.
        chains: of segments; points of two chains are never the same.
        queries: name -> filters of every chain.
        self_influence, self_influence_tolerance, held_bytes: as in ``score_rows``.
    """
    found: list[BatchScores] = []
    for place, segments in enumerate(chains):
        found.append(
            score_rows(
                model,
                load_point,
                objective,
                batches,
                segments,
                train_rows,
                {name: of_chains[place] for name, of_chains in queries.items()},
                self_influence=self_influence,
                self_influence_tolerance=self_influence_tolerance,
                held_bytes=held_bytes,
            )
        )
    return found[0] if len(found) == 1 else _added(found)


def _added(parts: Sequence[BatchScores]) -> BatchScores:
    """Of chains first to last, whose points follow each other."""
    own = [part.self_influence for part in parts if part.self_influence is not None]
    margins = [part.margins for part in parts if part.margins is not None]
    return BatchScores(
        torch.stack(own).sum(0) if own else None,
        {name: torch.stack([part.harm[name] for part in parts]).sum(0) for name in parts[0].harm},
        torch.cat([part.losses for part in parts]),
        torch.cat(margins) if margins else None,
    )
