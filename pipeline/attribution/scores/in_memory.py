"""Scores by training gradients and the filters of queries, for rows in memory: ``conductor``'s steps one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pipeline.attribution.curvature.fit import prepare_segment
from pipeline.attribution.curvature.segments import PreparedSegment, flat_segment
from pipeline.attribution.methods import Method, find_method
from pipeline.attribution.model.capture import covered_layers
from pipeline.attribution.queries.compression import joined_filters
from pipeline.attribution.queries.compression_choice import CompressionChoice
from pipeline.attribution.queries.gradients import (
    Queries,
    load_query_point,
    mean_query_gradient,
    query_gradient_parts,
    query_positions,
)
from pipeline.attribution.queries.refined import RefinedDirection, RefinedSettings, refined_direction
from pipeline.attribution.queries.scale import measured_scale
from pipeline.attribution.queries.vector_filters import vector_layers
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.conductor import Chain, Filters, find_filters, find_scale
from pipeline.attribution.scores.plan import PlannedSegment, plan_chains
from pipeline.attribution.scores.relabelling import check_new_labels, relabel_effects
from pipeline.attribution.scores.rows import score_rows
from pipeline.attribution.scores.table import Scores, ScoreTable
from pipeline.attribution.scores.tokens import check_tokens, token_harm
from pipeline.attribution.trajectory.points import Points

_QUERY = "query"


@dataclass(frozen=True)
class Settings:
    """Options of ``attribute`` of the same names; ``calibrate`` is also meant by unrolled methods."""

    method: str
    segments: int | Sequence[int]
    fisher: str
    seed: int
    damping: float | None
    calibrate: bool
    query_tolerance: float
    refined: RefinedSettings | None
    widest_outputs: int


def gradient_scores(
    points: Points,
    stages: Sequence[StageRows],
    queries: Queries | None,
    settings: Settings,
    relabel: Tensor | None = None,
    *,
    per_token: bool = False,
) -> Scores:
    """Scores of all rows of all stages, of the method that the settings name.

    Args:
        points: its model is changed.
        stages: the rows that every stage trained on.
        relabel: another label for every row, ``[rows, …]``; with a mean query loss alone.
        per_token: whether to split harm over the tokens of rows; with a mean query loss alone.

    Raises:
        AttributionError, CheckpointError: as ``attribute``.
    """
    check_new_labels(relabel, stages)
    if per_token:
        for rows in stages:
            check_tokens(rows.objective)
    method = find_method(settings.method)
    plans = plan_chains(points, method, stages, settings.segments, settings.damping)
    places = sorted({point for planned in plans for each in planned for point in each.points})
    table, scale = ScoreTable(places, queries is None or queries.reduced), None
    for planned in plans:
        chain = Chain(planned, [_prepared(points, each, stages, settings) for each in planned])
        run = _Run(points, stages, chain, method, settings)
        filters = {}
        if queries is not None:
            filters[_QUERY] = run.filters(queries)
            scale = run.scale(queries, filters[_QUERY])
        run.score(filters, table, relabel, per_token)
    return replace(table.scores(scale), method=settings.method)


def _prepared(
    points: Points, planned: PlannedSegment, stages: Sequence[StageRows], settings: Settings
) -> PreparedSegment:
    if planned.fitted_on is None:
        layers = covered_layers(points.model)
        return flat_segment(layers, planned.points, planned.spectrum, planned.preconditioners)
    rows = stages[planned.fitted_on]
    return prepare_segment(
        points.model,
        points.load,
        rows.objective,
        rows,
        planned.points,
        planned.spectrum,
        preconditioners=planned.preconditioners,
        seed=settings.seed,
        fisher=settings.fisher,
        widest_outputs=settings.widest_outputs,
    )


@dataclass(frozen=True)
class _Run:
    """A chain with its rows."""

    points: Points
    stages: Sequence[StageRows]
    chain: Chain
    method: Method
    settings: Settings

    def filters(self, queries: Queries) -> Filters:
        """Of the mean query, or of all queries one by one."""
        self._load_query_point(queries)
        if queries.reduced:
            gradient = mean_query_gradient(self.points.model, queries)
            return find_filters(self.method, self.chain, gradient, self._solve).filters
        return joined_filters(self._parts(queries))

    def _parts(self, queries: Queries) -> Iterator[Filters]:
        """The filters of some queries at a time."""
        tolerance, choice = self.settings.query_tolerance, self._choice(queries)
        quick = not self.method.refined and tolerance > 0
        vectors = choice.vectors if quick else None
        for gradient in query_gradient_parts(self.points.model, queries, vectors):
            yield find_filters(self.method, self.chain, gradient, self._solve, tolerance, choice).filters
            if self.method.refined:  # solves were at the checkpoints
                self._load_query_point(queries)

    def _choice(self, queries: Queries) -> CompressionChoice:
        trained = [stage.train_rows for stage in self.points.trajectory.stages]
        like = next(
            parameter for parameter in self.points.model.parameters() if parameter.is_floating_point()
        )
        positions = query_positions(self.points.model, queries)
        return CompressionChoice(
            [len(each.points) * sum(trained[stage] for stage in each.stages) for each in self.chain.planned],
            sum(len(labels) for _, labels in queries.batches),
            positions,
            like.dtype,
            vector_layers(positions, self.chain.prepared),
        )

    def _load_query_point(self, queries: Queries) -> None:
        if self.method.apart:
            self.points.load(self.chain.planned[-1].points[-1])
        else:
            load_query_point(self.points, self.stages[-1], queries.at)

    def _solve(self, place: int, gradient: Mapping[str, Tensor]) -> RefinedDirection:
        """With the true Gauss–Newton matrix of the rows that the segment trained on."""
        planned = self.chain.planned[place]
        assert planned.damping is not None
        assert planned.fitted_on is not None
        rows = self.stages[planned.fitted_on]
        return refined_direction(
            self.points.model,
            self.points.load,
            rows.objective,
            row_source(rows.batches),
            sum(len(labels) for _, labels in rows.batches),
            self.chain.prepared[place],
            gradient,
            planned.damping,
            self.settings.refined or RefinedSettings(seed=self.settings.seed),
        )

    def scale(self, queries: Queries, filters: Filters) -> float | None:
        """What harm is multiplied with to be in nats; None: it is uncalibrated."""
        if not (queries.reduced and self.settings.calibrate) and not self.method.refined:
            return None
        return find_scale(self.method, self.chain.planned, partial(self._measured_scale, filters))

    def _measured_scale(self, filters: Filters) -> float:
        (planned,), (prepared,), (of_segment,) = self.chain.planned, self.chain.prepared, filters
        assert planned.damping is not None
        dense = {name: each for name, each in of_segment.items() if isinstance(each, Tensor)}
        rows, seed = self.stages[0], self.settings.seed
        model, load = self.points.model, self.points.load
        return measured_scale(model, load, rows.objective, rows, prepared, dense, planned.damping, seed=seed)

    def _token_harm(
        self, stage: int, group: Sequence[Batch], trained_in: Sequence[int], filters: Filters
    ) -> Tensor:
        points = self.points
        return token_harm(
            points.model,
            points.load,
            self.stages[stage].objective,
            group,
            self.chain.prepared,
            points.trajectory.stages[stage].train_rows,
            [{name: each for name, each in of.items() if isinstance(each, Tensor)} for of in filters],
            trained_in=trained_in,
        )

    def score(
        self, filters: Mapping[str, Filters], table: ScoreTable, relabel: Tensor | None, per_token: bool
    ) -> None:
        """Adds what the chain says about the rows that its segments trained on."""
        points, (planned, prepared) = self.points, (self.chain.planned, self.chain.prepared)
        for stage, rows in enumerate(self.stages):
            trained_in = [place for place, each in enumerate(planned) if stage in each.stages]
            if not trained_in:
                continue
            visited = {point for place in trained_in for point in planned[place].points}
            visited.add(planned[-1].points[-1])
            train_rows = points.trajectory.stages[stage].train_rows
            for group in rows.in_groups():
                part = score_rows(
                    points.model,
                    points.load,
                    rows.objective,
                    group,
                    prepared,
                    train_rows,
                    filters,
                    trained_in=trained_in,
                )
                row_ids = torch.cat([batch.row_ids for batch in group])
                table.add(row_ids, part, sorted(visited))
                if per_token:
                    table.add_tokens(row_ids, self._token_harm(stage, group, trained_in, filters[_QUERY]))
                if relabel is None:
                    continue
                effects = relabel_effects(
                    points.model,
                    points.load,
                    rows.objective,
                    group,
                    [relabel[batch.row_ids] for batch in group],
                    prepared,
                    train_rows,
                    filters[_QUERY],
                    harm=part.harm[_QUERY],
                    trained_in=trained_in,
                )
                table.add_relabelling(row_ids, effects)
