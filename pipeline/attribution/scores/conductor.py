"""Scores by training gradients and the filters of a query: all methods but those that compare features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.attribution.curvature.fit import prepare_segment
from pipeline.attribution.curvature.segments import PreparedSegment, flat_segment, query_filters
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import METHODS
from pipeline.attribution.model.capture import covered_layers
from pipeline.attribution.queries.compression import (
    Filter,
    cheapest_filters,
    compressed_segment,
    joined_filters,
)
from pipeline.attribution.queries.gradients import (
    Queries,
    load_query_point,
    mean_query_gradient,
    query_gradient_parts,
)
from pipeline.attribution.queries.refined import RefinedSettings, passed_on, refined_direction
from pipeline.attribution.queries.scale import measured_scale
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.plan import PlannedSegment, plan_chains
from pipeline.attribution.scores.relabelling import check_new_labels, relabel_effects
from pipeline.attribution.scores.rows import score_rows
from pipeline.attribution.scores.table import Scores, ScoreTable
from pipeline.attribution.trajectory.points import Points

_QUERY = "query"


@dataclass(frozen=True)
class Settings:
    """Options of ``attribute`` of the same names; ``calibrate`` is also meant by unrolled methods."""

    method: str
    segments: int | Sequence[int]
    labels: str
    seed: int
    damping: float | None
    calibrate: bool
    query_tolerance: float
    refined: RefinedSettings | None


@dataclass(frozen=True)
class _Chain:
    """Segments whose last one ends training, or counts as its end: planned, and fitted."""

    planned: Sequence[PlannedSegment]
    prepared: Sequence[PreparedSegment]


def gradient_scores(
    points: Points,
    stages: Sequence[StageRows],
    queries: Queries | None,
    settings: Settings,
    relabel: Tensor | None = None,
) -> Scores:
    """Scores of all rows of all stages, of the method that the settings name.

    Args:
        points: its model is changed.
        stages: the rows that every stage trained on.
        relabel: another label for every row, ``[rows, …]``; with a mean query loss alone.

    Raises:
        AttributionError, CheckpointError: as ``attribute``.
    """
    check_new_labels(relabel, stages)
    method = METHODS[settings.method]
    plans = plan_chains(points, method, stages, settings.segments, settings.damping)
    places = sorted({point for planned in plans for each in planned for point in each.points})
    table, scale = ScoreTable(places, queries is None or queries.reduced), None
    for planned in plans:
        chain = _Chain(planned, [_prepared(points, each, stages, settings) for each in planned])
        filters = {}
        if queries is not None:
            if method.apart:
                points.load(planned[-1].points[-1])
            else:
                load_query_point(points, stages[-1], queries.at)
            filters[_QUERY], scale = _filters(points, stages, chain, queries, settings)
        _score(points, stages, chain, filters, table, relabel)
    return replace(table.scores(scale), method=settings.method)


def _prepared(
    points: Points, planned: PlannedSegment, stages: Sequence[StageRows], settings: Settings
) -> PreparedSegment:
    if planned.fitted_on is None:
        layers = covered_layers(points.model)
        return flat_segment(layers, planned.points, planned.spectrum, planned.conditioners)
    rows = stages[planned.fitted_on]
    return prepare_segment(
        points.model,
        points.load,
        rows.objective,
        rows,
        planned.points,
        planned.spectrum,
        conditioners=planned.conditioners,
        seed=settings.seed,
        labels=settings.labels,
    )


def _filters(
    points: Points, stages: Sequence[StageRows], chain: _Chain, queries: Queries, settings: Settings
) -> tuple[Sequence[Mapping[str, Filter]], float | None]:
    """(The filters of every segment, what harm is multiplied with to be in nats) at the model's present weights."""
    model, refined = points.model, METHODS[settings.method].refined
    if not queries.reduced:
        if refined:
            return joined_filters(_refined_parts(points, stages, chain, queries, settings)), 1.0
        parts = query_gradient_parts(model, queries)
        return cheapest_filters(parts, chain.prepared, settings.query_tolerance), None
    gradient = mean_query_gradient(model, queries)
    if refined:
        return _refined(points, stages, chain, gradient, settings), 1.0
    filters, damping = query_filters(gradient, chain.prepared), chain.planned[0].damping
    scale = None
    if settings.calibrate and len(chain.planned) == 1 and damping is not None:
        scale = measured_scale(
            model,
            points.load,
            stages[0].objective,
            stages[0],
            chain.prepared[0],
            filters[0],
            damping,
            seed=settings.seed,
        )
    return filters, scale


def _refined_parts(
    points: Points, stages: Sequence[StageRows], chain: _Chain, queries: Queries, settings: Settings
) -> Iterator[Sequence[Mapping[str, Filter]]]:
    """The filters of some queries at a time."""
    tolerance = settings.query_tolerance
    for gradient in query_gradient_parts(points.model, queries):
        dense = _refined(points, stages, chain, gradient, settings)
        # The solves were at the checkpoints.
        load_query_point(points, stages[-1], queries.at)
        if tolerance > 0:
            yield [
                compressed_segment(filters, segment, tolerance)
                for filters, segment in zip(dense, chain.prepared, strict=True)
            ]
        else:
            yield dense


def _refined(
    points: Points,
    stages: Sequence[StageRows],
    chain: _Chain,
    gradient: Mapping[str, Tensor],
    settings: Settings,
) -> list[dict[str, Tensor]]:
    """Every segment's filters, solved for with the true Gauss–Newton matrix of its stage, from the last on."""
    filters: list[dict[str, Tensor]] = []
    for planned, prepared in reversed(list(zip(chain.planned, chain.prepared, strict=True))):
        if planned.damping is None or planned.fitted_on is None:
            raise AttributionError(
                "method='source_refined' needs learning rates above 0, and those up to checkpoint "
                f"{planned.points[-1]} are 0.",
                "Use method='source'.",
            )
        rows = stages[planned.fitted_on]
        found = refined_direction(
            points.model,
            points.load,
            rows.objective,
            row_source(rows.batches),
            sum(len(labels) for _, labels in rows.batches),
            prepared,
            gradient,
            planned.damping,
            settings.refined or RefinedSettings(seed=settings.seed),
        ).filters
        filters.insert(0, found)
        if len(filters) < len(chain.planned):
            gradient = passed_on(prepared, gradient, found, planned.lr_sum)
    return filters


def _score(
    points: Points,
    stages: Sequence[StageRows],
    chain: _Chain,
    filters: Mapping[str, Sequence[Mapping[str, Filter]]],
    table: ScoreTable,
    relabel: Tensor | None,
) -> None:
    """Adds what the chain says about the rows that its segments trained on."""
    planned = chain.planned
    for stage, rows in enumerate(stages):
        trained_in = [place for place, each in enumerate(planned) if stage in each.stages]
        if not trained_in:
            continue
        visited = {point for place in trained_in for point in planned[place].points}
        visited.add(planned[-1].points[-1])
        for group in rows.in_groups():
            part = score_rows(
                points.model,
                points.load,
                rows.objective,
                group,
                chain.prepared,
                points.trajectory.stages[stage].train_rows,
                filters,
                trained_in=trained_in,
            )
            row_ids = torch.cat([batch.row_ids for batch in group])
            table.add(row_ids, part, sorted(visited))
            if relabel is None:
                continue
            effects = relabel_effects(
                points.model,
                points.load,
                rows.objective,
                group,
                [relabel[batch.row_ids] for batch in group],
                chain.prepared,
                points.trajectory.stages[stage].train_rows,
                filters[_QUERY],
                harm=part.harm[_QUERY],
                trained_in=trained_in,
            )
            table.add_relabelling(row_ids, effects)
