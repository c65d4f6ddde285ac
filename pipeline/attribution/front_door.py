"""The front door for a torch loop and nothing else: a trajectory and batches in, one tensor per score out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import find_method
from pipeline.attribution.misfits.words import misfits
from pipeline.attribution.model.batchnorm import check_running_statistics, has_batchnorm
from pipeline.attribution.model.calls import Inputs, named_inputs, select_inputs
from pipeline.attribution.model.capture import capture
from pipeline.attribution.model.coverage import WELL_COVERED, coverage
from pipeline.attribution.model.unseen import unseen_gradients
from pipeline.attribution.objectives import Objective, check_objective, get_objective
from pipeline.attribution.options import (
    WIDEST_OUTPUTS,
    check_calibration,
    check_mean_query,
    check_options,
    check_values,
    is_cut,
)
from pipeline.attribution.queries.gradients import Queries, load_query_point
from pipeline.attribution.queries.refined import RefinedSettings
from pipeline.attribution.rows.pass_size import PassSizedBatches
from pipeline.attribution.rows.refused_inputs import refused_inputs_named
from pipeline.attribution.rows.repeated_batches import RepeatedBatches
from pipeline.attribution.rows.stages import StageData, StageRows, number_rows
from pipeline.attribution.scores.compared import compared_scores
from pipeline.attribution.scores.in_memory import Settings, gradient_scores
from pipeline.attribution.scores.similarity import PROJECTION, find_similarity
from pipeline.attribution.scores.table import Scores
from pipeline.attribution.trajectory.points import Points
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.unrolling.unrolled_scores import find_unrolling, with_unrolled_harm

# Share of a query's filter, by its norm, that scores of single queries may lose.
QUERY_TOLERANCE = 1e-3
# Rows of the first batch by which weights are looked for that are used outside their layer's call.
_TRIED_ROWS = 8


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
    fisher: str = "mc",
    seed: int = 0,
    damping: float | None = None,
    reduce_queries: bool = True,
    query_tolerance: float = QUERY_TOLERANCE,
    projection: int = PROJECTION,
    widest_outputs: int = WIDEST_OUTPUTS,
    calibrate: bool = False,
    recording: str | Path | None = None,
    refined: RefinedSettings | None = None,
    relabel: Tensor | None = None,
    per_token: bool = False,
) -> Scores:
    """Attributes the query loss, and every row's own, to the training rows.

    Args:
        model: built as for training; its weights and modes are put back at the end.
        trajectory: the recorded training run.
        train: the training rows as (inputs, labels), always in the same order; iterated several times, so a
            list or a loader without shuffling and augmentation. Several inputs are a dictionary or a tuple. They are
            moved to the model's device a batch at a time. One ``StageData`` for each stage where training had several.
        query: rows whose loss is attributed, for example a validation set; also iterated several times.
        loss: as in training: ``cross_entropy``, ``squared_error``, ``binary_cross_entropy``, or an ``Objective``,
            such as ``cross_entropy(label_smoothing=0.1)`` or one of your own, which is tried on the first batch.
            Of the queries, and of stages that don't say otherwise. A row's loss is the sum over its tokens or outputs;
            ``cross_entropy(reduction="mean")`` is torch's default.
        method: ``source``; ``fast_source``, with one fit and one pass over the rows a segment, at the mean weights of
            its checkpoints; ``source_sgd_formula``, which takes Adam for gradient descent; ``influence``, for
            influence functions at the last checkpoint; ``source_refined``, SOURCE whose query is solved for with the
            true Gauss–Newton matrix of every segment, in nats; ``unrolled``, harm by exact differentiation through
            the recorded training, and ``unrolled_gauss_newton``, its smoothed form. In these two all but harm is
            SOURCE's, and harm too where training was chaotic: ``Scores.method`` says so. Baselines: ``tracin``, dot
            products of gradients at every checkpoint, the query's too, times the learning rates it stands for;
            ``graddot``, dot products at the last checkpoint, over N; and, all at the query point, ``trak``,
            ``representation`` and ``loss`` (``similarity``).
        segments: how many segments SOURCE cuts every stage into; must divide the number of its checkpoints. Or one
            number for each stage.
        query_at: where the query's gradient is taken: at the ``tail`` average or the ``final`` checkpoint. ``tracin``
            takes it at every checkpoint instead.
        fisher: ``mc`` or ``exact``, as in ``factors.covariance_sums``.
        seed: for drawn labels.
        damping: of influence functions; None means a tenth of each layer's mean eigenvalue.
        reduce_queries: score the mean query loss; False scores every query as well.
        query_tolerance: share of a query's filter, by its norm, that may be lost for speed when queries are scored one
            by one (``query_compression``); 0 is exact.
        projection: how many numbers ``trak`` projects gradients to; more are better and slower.
        widest_outputs: layers with more outputs, such as the head of a language model, keep the curvature between their
            outputs as a diagonal, as ``coverage`` says. A matrix of all outputs takes 8 bytes times their square.
        calibrate: correct the scale of ``harm`` by a pass over some training rows (``scale``). That is defined for
            SOURCE with one segment and the mean query loss.
        recording: folder of ``ReplayRecorder`` for ``unrolled``, of ``WindowRecorder`` for ``unrolled_gauss_newton``;
            the query is at its tail average.
        refined: of ``source_refined``; None takes the defaults.
        relabel: ``[rows, …]`` another label for every training row, in the order of the scores; gives
            ``Scores.relabel_effect``, what the mean query loss changes by when a row gets that label. A row whose label
            stays the same has 0.
        per_token: split the harm of every row over its tokens as well, ``Scores.token_harm``, by a forward-mode pass
            more at the same checkpoints. For queries that are single tokens see ``token_queries``.

    Raises:
        AttributionError: an option is unknown or has no effect with the method, the model can't take a batch or makes
            its rows depend on each other, the recording is of another training, ``train`` or ``query`` can be iterated
            only once or comes in another order or with other values each time, or ``train`` has another number of rows
            than training had.
        NonFiniteError: a row, a query or the training has NaN or infinity.
        CheckpointError: a checkpoint doesn't fit the model, or has no state of the Adam that trained it.

    Warns:
        UserWarning: less than ``coverage.WELL_COVERED`` of the parameters are covered; a weight is used outside its
            layer's call too, and influence through that use isn't seen; training was chaotic; the losses or gradients
            that were recorded don't fit ``loss``.
    """
    check_values(
        {
            "segments": segments,
            "query_at": query_at,
            "fisher": fisher,
            "seed": seed,
            "damping": damping,
            "query_tolerance": query_tolerance,
            "projection": projection,
            "widest_outputs": widest_outputs,
        }
    )
    chosen = find_method(method)
    given = {"segments": is_cut(segments), "damping": damping is not None, "calibrate": calibrate}
    given |= {"projection": projection != PROJECTION, "recording": recording is not None}
    given |= {"refined": refined is not None, "relabel": relabel is not None, "per_token": per_token}
    check_options(method, given)
    device = next((parameter.device for parameter in model.parameters()), None)
    repeating = partial(RepeatedBatches, naming=partial(named_inputs, model), device=device)
    data = _stage_data(train, trajectory, repeating)
    repeated = [each.batches for each in data if isinstance(each.batches, RepeatedBatches)]
    if query is not None:
        query = repeating(query, "query")
        repeated.append(query)
    if not has_batchnorm(model):  # its statistics are means over whole batches
        data = [replace(each, batches=PassSizedBatches(each.batches, model)) for each in data]
        query = None if query is None else PassSizedBatches(query, model)
    mean_query = query is not None and reduce_queries
    for option, is_given in (("relabel", relabel is not None), ("per_token", per_token)):
        if is_given:
            check_mean_query(option, mean_query)
    if calibrate:
        check_calibration(segments, len(data), mean_query)
    check_running_statistics(model)
    with refused_inputs_named(model, repeated), _as_recorded(model, trajectory):
        stages = _stage_rows(data, trajectory, loss, model, fisher)
        unrolling = find_unrolling(method, recording, trajectory, mean_query, seed)
        queries = None
        if query is not None:
            objective = _objective(loss, model, stages[-1].batches, fisher)
            queries = Queries(query, objective, query_at, reduce_queries)
        points = Points(model, trajectory)
        similarity = None if chosen.similarity is None else find_similarity(chosen.similarity)
        if similarity is None or similarity.metric is not None:
            _warn_of_uncovered(model)
            _warn_of_unseen_gradients(points, stages[0])
            _warn_of_misfits(points, stages, seed)
        if similarity is not None:
            load_query_point(points, stages[-1], query_at)
            return compared_scores(model, similarity, method, stages, queries, projection, seed)
        calibrate = calibrate or unrolling is not None
        name = method if unrolling is None else "source"
        settings = Settings(
            name, segments, fisher, seed, damping, calibrate, query_tolerance, refined, widest_outputs
        )
        scores = gradient_scores(points, stages, queries, settings, relabel, per_token=per_token)
        if unrolling and query is not None:
            scores = with_unrolled_harm(scores, unrolling, model, stages[0], query)
    return scores


def _warn_of_uncovered(model: nn.Module) -> None:
    found = coverage(model)
    if found.share < WELL_COVERED:
        warnings.warn(
            f"Attribution covers {found.share:.0%} of the parameters: influence through "
            f"{', '.join(found.uncovered)} is not seen ({', '.join(found.types)}).",
            stacklevel=3,
        )


def _warn_of_unseen_gradients(points: Points, rows: StageRows) -> None:
    points.load(0)  # before gradients vanish
    for batch in rows:
        unseen = unseen_gradients(points.model, select_inputs(batch.inputs, slice(_TRIED_ROWS)))
        if unseen:
            warnings.warn(
                f"{', '.join(unseen)}: used outside the layer's own call too, and influence through that use is not "
                "seen. Call the module instead of using its weight.",
                stacklevel=3,
            )
        break


def _warn_of_misfits(points: Points, stages: Sequence[StageRows], seed: int) -> None:
    for place, rows in enumerate(stages):
        for said in misfits(points, rows, place, seed):
            warnings.warn(said, stacklevel=3)


def _stage_data(
    train: Iterable[tuple[Inputs, Tensor]] | Sequence[StageData],
    trajectory: Trajectory,
    repeating: Callable[[Iterable[object], str], RepeatedBatches],
) -> list[StageData]:
    if not isinstance(trajectory, Trajectory):
        raise AttributionError(f"trajectory is {trajectory!r}.", "Give Trajectory.load(folder).")
    given = list(train) if isinstance(train, Sequence) else [train]
    stages = [each for each in given if isinstance(each, StageData)]
    if not stages:
        stages = [StageData(cast("Iterable[tuple[Inputs, Tensor]]", train))]
    if len(stages) != len(trajectory.stages):
        raise AttributionError(
            f"Training had {len(trajectory.stages)} stages, but rows of {len(stages)} are given.",
            "Give a list with one StageData for each stage.",
        )
    names = [f"train, stage {place}" for place in range(len(stages))] if len(stages) > 1 else ["train"]
    return [
        replace(stage, batches=repeating(stage.batches, name))
        for stage, name in zip(stages, names, strict=True)
    ]


def _stage_rows(
    stages: Sequence[StageData], trajectory: Trajectory, loss: str | Objective, model: nn.Module, fisher: str
) -> list[StageRows]:
    return [
        StageRows(
            stage.batches,
            _objective(loss if stage.loss is None else stage.loss, model, stage.batches, fisher),
            ids,
            recorded.train_rows,
        )
        for stage, ids, recorded in zip(stages, number_rows(stages), trajectory.stages, strict=True)
    ]


def _objective(
    loss: str | Objective, model: nn.Module, train: Iterable[tuple[Inputs, Tensor]], fisher: str
) -> Objective:
    """The objective, fitted to the training rows; one of the caller's own is tried on the first batch first."""
    if isinstance(loss, str):
        return get_objective(loss)
    if not isinstance(loss, Objective):
        raise AttributionError(
            f"loss is {loss!r}, which is no Objective.", "Give a name, or the call: cross_entropy()."
        )
    if loss.fit is not None:
        loss = loss.fit(labels for _, labels in train)
    for inputs, given in train:
        with capture(model) as captured:
            check_objective(loss, captured.forward(inputs), given, fisher)
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
