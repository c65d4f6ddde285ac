"""Replaces the harm of SOURCE by unrolled harm, unless training was chaotic."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import METHODS
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.table import Scores
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.same_training import check_same_training
from pipeline.attribution.unrolling.unrolled import GROWTH_LIMIT, UnrolledHarm, unrolled_harm
from pipeline.attribution.unrolling.unrolled_gauss_newton import WindowMeans, unrolled_gauss_newton_harm

# Name of a recorder -> the function that reads its recording.
_LOADERS: Mapping[str, Callable[[str | Path], Replay | WindowMeans]] = {
    "ReplayRecorder": Replay.load,
    "WindowRecorder": WindowMeans.load,
}


@dataclass(frozen=True)
class Unrolling:
    """A method that unrolls training, with its recording.

    Attributes:
        method: the name of the method.
        recording: a recording of ``ReplayRecorder`` or ``WindowRecorder``.
        seed: the seed of the random batches of ``unrolled_gauss_newton``.
    """

    method: str
    recording: Replay | WindowMeans
    seed: int = 0


def find_unrolling(
    method: str, recording: str | Path | None, trajectory: Trajectory, queries: bool, seed: int
) -> Unrolling | None:
    """Reads the recording that a method unrolls.

    Args:
        method: the name of the method.
        recording: the folder of the recording, or None.
        trajectory: the trajectory of the same training.
        queries: whether the mean query loss is attributed.
        seed: the seed of the random batches of ``unrolled_gauss_newton``.

    Returns:
        The method with its recording, or None for a method that doesn't unroll training.

    Raises:
        AttributionError: there is no recording, the mean query loss isn't attributed, training had several stages, or
            the recording is of another training than the trajectory.
        CheckpointError: the recording is missing or damaged.
    """
    kind = METHODS[method].recorder
    if kind is None:
        return None
    if recording is None:
        raise AttributionError(
            f"method={method!r} needs a recording of training.",
            f"Record with {kind} and give its `recording`.",
        )
    if not queries or len(trajectory.stages) > 1:
        raise AttributionError(
            f"method={method!r} attributes the mean query loss of training in one stage.",
            "Give queries with reduce_queries=True, or use method='source'.",
        )
    found = _LOADERS[kind](recording)
    check_same_training(trajectory, found)
    return Unrolling(method, found, seed)


def with_unrolled_harm(
    scores: Scores,
    unrolling: Unrolling,
    model: nn.Module,
    rows: StageRows,
    query: Iterable[tuple[Inputs, Tensor]],
) -> Scores:
    """Returns scores with unrolled harm in place of SOURCE's.

    If training was chaotic, it warns and keeps the harm of SOURCE.

    Args:
        scores: the scores of SOURCE.
        unrolling: the method with its recording.
        model: the model, built as for training.
        rows: the training rows.
        query: batches of (inputs, labels) whose mean loss is attributed.

    Raises:
        ReplayError: training doesn't repeat bit for bit.
    """
    found = _unrolled(unrolling, model, rows, query)
    if found.chaotic:
        warnings.warn(
            f"Training was chaotic: derivatives grow {found.growth:.3g} times through it, over the limit of "
            f"{GROWTH_LIMIT:g}, and {unrolling.method} predicts nothing. harm is SOURCE's.",
            stacklevel=3,
        )
        return replace(scores, growth=found.growth)
    harm = found.harm
    if rows.row_ids is not None:
        harm = harm.new_zeros(scores.losses.shape[1]).index_add_(0, rows.row_ids, harm)
    return replace(scores, harm=harm, scale=1.0, method=unrolling.method, growth=found.growth)


def _unrolled(
    unrolling: Unrolling, model: nn.Module, rows: StageRows, query: Iterable[tuple[Inputs, Tensor]]
) -> UnrolledHarm:
    recording, source = unrolling.recording, row_source(rows.batches)
    if isinstance(recording, Replay):
        return unrolled_harm(model, recording, rows.objective, source, query)
    return unrolled_gauss_newton_harm(model, recording, rows.objective, source, query, seed=unrolling.seed)
