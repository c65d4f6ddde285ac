"""The front door for a torch loop and nothing else: a trajectory and batches in, one tensor per score out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.attribution.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.capture import Inputs, capture
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.factors import add_tensors
from pipeline.attribution.objectives import Objective, check_objective, get_objective
from pipeline.attribution.planned import PlannedSegment, Points, find_method, plan_segments
from pipeline.attribution.prepare import prepare_segment
from pipeline.attribution.refined import RefinedSettings, refined_direction
from pipeline.attribution.row_derivatives import row_source
from pipeline.attribution.scale import measured_scale
from pipeline.attribution.score_table import Scores, ScoreTable
from pipeline.attribution.scores import mean_gradient_sums, query_gradients, score_rows
from pipeline.attribution.stage_data import StageData, StageRows, check_repeatable, number_rows
from pipeline.attribution.trajectory import Trajectory
from pipeline.attribution.transport import PreparedSegment, query_filters
from pipeline.attribution.unrolled_scores import find_unrolling, with_unrolled_harm
from pipeline.attribution.weights import restore_weights

_QUERY = "query"


def attribute(
    model: nn.Module,
    trajectory: Trajectory,
    train: Iterable[tuple[Inputs, Tensor]] | Sequence[StageData],
    query: Iterable[tuple[Inputs, Tensor]] | None = None,
    *,
    loss: str | Objective = "cross_entropy",
    method: str = "source",
    segments: int | Sequence[int] = 1,
    query_at: str = "tail",
    labels: str = "sampled",
    seed: int = 0,
    damping: float | None = None,
    reduce_queries: bool = True,
    calibrate: bool = False,
    recording: str | Path | None = None,
    refined: RefinedSettings | None = None,
) -> Scores:
    """Attributes the query loss, and every row's own, to the training rows.

    Args:
        model: built as for training; its weights and modes are put back at the end.
        trajectory: the recorded training run.
        train: the training rows as (inputs, labels), always in the same order; iterated several times, so a
            list or a loader without shuffling and augmentation. One ``StageData`` for each stage where training had
            several.
        query: rows whose loss is attributed, for example a validation set; also iterated several times.
        loss: as in training: ``cross_entropy``, ``squared_error``, ``binary_cross_entropy``, or an ``Objective``,
            such as ``cross_entropy(label_smoothing=0.1)`` or one of your own, which is tried on the first batch.
            Of the queries, and of stages that don't say otherwise.
        method: ``source``; ``fast_source``, with one fit and one pass over the rows a segment, at the mean weights of
            its checkpoints; ``source_sgd_formula``, which takes Adam for gradient descent; ``influence``, for
            influence functions at the last checkpoint; ``source_refined``, SOURCE with one segment whose query is
            solved for with the true Gauss–Newton matrix, in nats; ``unrolled``, harm by exact differentiation through
            the recorded training, and ``unrolled_gauss_newton``, its smoothed form. In these two all but harm is
            SOURCE's, and harm too where training was chaotic: ``Scores.method`` says so.
        segments: how many segments SOURCE cuts every stage into; must divide the number of its checkpoints. Or one
            number for each stage.
        query_at: where the query's gradient is taken: at the ``tail`` average or the ``final`` checkpoint.
        labels: ``sampled`` or ``exact`` curvature, as in ``factors.covariance_sums``.
        seed: for sampled labels.
        damping: of influence functions; None means a tenth of each layer's mean eigenvalue.
        reduce_queries: score the mean query loss; False scores every query as well.
        calibrate: correct the scale of ``harm`` by a pass over some training rows (``scale``), where that is defined:
            for SOURCE with one segment and the mean query loss.
        recording: folder of ``ReplayRecorder`` for ``unrolled``, of ``PieceRecorder`` for ``unrolled_gauss_newton``;
            the query is at its tail average.
        refined: of ``source_refined``; None takes the defaults.

    Raises:
        AttributionError: an option is unknown, or ``train`` is empty or can be iterated only once.
        CheckpointError: a checkpoint doesn't fit the model, or has no state of the Adam that trained it.
    """
    chosen = find_method(method)
    if query_at not in ("tail", "final"):
        raise AttributionError(f"query_at={query_at!r} isn't known.", "Use 'tail' or 'final'.")
    if query is not None:
        check_repeatable(query)
    rows = _stage_rows(train, trajectory, loss, model, labels)
    objective = _objective(loss, model, rows[-1].batches, labels)
    unrolling = find_unrolling(method, recording, query is not None and reduce_queries, len(rows), seed)
    points, fit = Points(model, trajectory), {"seed": seed, "labels": labels}
    with _as_recorded(model, trajectory):
        planned = plan_segments(points, chosen, rows, segments, damping)
        prepared = [_prepared(points, each, rows[each.fitted_on], fit) for each in planned]
        queries, scale = {}, None
        if query is not None:
            _load_query_point(points, rows[-1], query_at)
            gradient = _query_gradient(model, objective, query, reduce_queries)
            filters = query_filters(gradient, prepared)
            at, calibrated = planned[0].damping, (calibrate or unrolling) and reduce_queries
            if method == "source_refined":
                settings = refined or RefinedSettings(seed=seed)
                filters, scale = [_refined(points, rows[0], planned, prepared, gradient, settings)], 1.0
            elif calibrated and len(planned) == 1 and at is not None:
                scale = measured_scale(
                    model, points.load, rows[0].objective, rows[0], prepared[0], filters[0], at, seed=seed
                )
            queries[_QUERY] = filters
        places = sorted({point for each in planned for point in each.points})
        table = ScoreTable(places, reduce_queries)
        for stage, of_stage in enumerate(rows):
            trained_in = [place for place, each in enumerate(planned) if stage in each.stages]
            size = trajectory.stages[stage].train_rows
            for group in of_stage.in_groups():
                part = score_rows(
                    model,
                    points.load,
                    of_stage.objective,
                    group,
                    prepared,
                    size,
                    queries,
                    trained_in=trained_in,
                )
                visited = {point for place in trained_in for point in planned[place].points} | {places[-1]}
                table.add(torch.cat([batch.row_ids for batch in group]), part, sorted(visited))
        scores = replace(table.scores(scale), method="source" if unrolling else method)
        if unrolling and query is not None:
            scores = with_unrolled_harm(scores, unrolling, model, rows[0], query)
    return scores


def _refined(
    points: Points,
    rows: StageRows,
    planned: Sequence[PlannedSegment],
    prepared: Sequence[PreparedSegment],
    gradient: Mapping[str, Tensor],
    settings: RefinedSettings,
) -> dict[str, Tensor]:
    """The only segment's filters, solved for with the true Gauss–Newton matrix."""
    damping = planned[0].damping
    if len(planned) > 1 or damping is None:
        raise AttributionError(
            "method='source_refined' needs one segment of training with learning rates above 0.",
            "Use segments=1 with training in one stage, or method='source'.",
        )
    count = sum(len(labels) for _, labels in rows.batches)
    source = row_source(rows.batches)
    return refined_direction(
        points.model, points.load, rows.objective, source, count, prepared[0], gradient, damping, settings
    ).filters


def _prepared(
    points: Points, planned: PlannedSegment, rows: StageRows, fit: Mapping[str, Any]
) -> PreparedSegment:
    return prepare_segment(
        points.model,
        points.load,
        rows.objective,
        rows,
        planned.points,
        planned.spectrum,
        conditioners=planned.conditioners,
        **fit,
    )


def _stage_rows(
    train: Iterable[tuple[Inputs, Tensor]] | Sequence[StageData],
    trajectory: Trajectory,
    loss: str | Objective,
    model: nn.Module,
    labels: str,
) -> list[StageRows]:
    check_repeatable(train)
    given = list(train) if isinstance(train, Sequence) else [train]
    stages = [each for each in given if isinstance(each, StageData)]
    if not stages:
        stages = [StageData(cast("Iterable[tuple[Inputs, Tensor]]", train))]
    if len(stages) != len(trajectory.stages):
        raise AttributionError(
            f"Training had {len(trajectory.stages)} stages, but rows of {len(stages)} are given.",
            "Give a list with one StageData for each stage.",
        )
    for stage in stages:
        check_repeatable(stage.batches)
    return [
        StageRows(
            stage.batches,
            _objective(loss if stage.loss is None else stage.loss, model, stage.batches, labels),
            ids,
        )
        for stage, ids in zip(stages, number_rows(stages), strict=True)
    ]


def _objective(
    loss: str | Objective, model: nn.Module, train: Iterable[tuple[Inputs, Tensor]], labels: str
) -> Objective:
    """The objective; one of the caller's own is tried on the first batch first."""
    if isinstance(loss, str):
        return get_objective(loss)
    for inputs, given in train:
        with capture(model) as captured:
            check_objective(loss, captured.forward(inputs), given, labels)
        break
    return loss


@contextmanager
def _as_recorded(model: nn.Module, trajectory: Trajectory) -> Iterator[None]:
    """Parameters require gradients if any stage trained them; weights and that are put back in the end."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    groups = [group.parameters for stage in trajectory.stages for group in stage.optimizer.groups]
    trained = {name for names in groups if names is not None for name in names}
    try:
        if None not in groups:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in trained)
        yield
    finally:
        model.load_state_dict(before)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required[name])


def _load_query_point(points: Points, rows: StageRows, query_at: str) -> None:
    model, trajectory = points.model, points.trajectory
    if query_at == "final":
        points.load(len(trajectory.checkpoints) - 1)
        return
    restore_weights(model, trajectory.load_tail(), trajectory.tail or "")
    if has_batchnorm(model):
        reestimate_batchnorm(model, (batch.inputs for batch in rows))


def _query_gradient(
    model: nn.Module, objective: Objective, query: Iterable[tuple[Inputs, Tensor]], reduce_queries: bool
) -> Mapping[str, Tensor]:
    """Layer -> mean gradient ``[out, in]``, or one per query ``[queries, out, in]``; float64."""
    if not reduce_queries:
        found = []
        for inputs, labels in query:
            _check_classes(model, objective, inputs, labels)
            found.append(query_gradients(model, objective, inputs, labels))
        if not found:
            raise AttributionError(
                "There are no queries.", "Give at least one batch of queries, or query=None."
            )
        return {name: torch.cat([part[name] for part in found]).double() for name in found[0]}
    sums: dict[str, Tensor] = {}
    count = 0
    for inputs, labels in query:
        _check_classes(model, objective, inputs, labels)
        sums = add_tensors(sums, mean_gradient_sums(model, objective, inputs, labels))
        count += len(labels)
    if count == 0:
        raise AttributionError("There are no queries.", "Give at least one batch of queries, or query=None.")
    return {name: value / count for name, value in sums.items()}


def _check_classes(model: nn.Module, objective: Objective, inputs: Inputs, labels: Tensor) -> None:
    """Raises AttributionError for a class that the model has no output for."""
    if objective.name != "cross_entropy" or not len(labels):
        return
    with capture(model) as captured:
        classes = captured.forward(inputs).shape[-1]
    if int(labels.max()) >= classes:
        raise AttributionError(
            f"A query has the class {int(labels.max())}, but the model has {classes} outputs, classes 0 to "
            f"{classes - 1}.",
            "Leave out queries of classes that training didn't know.",
        )
