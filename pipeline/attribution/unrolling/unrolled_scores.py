"""Puts harm of unrolled training in the place of SOURCE's, where it means something."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import METHODS
from pipeline.attribution.model.capture import Inputs
from pipeline.attribution.rows.derivatives import row_source
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.scores.table import Scores
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.same_training import check_same_training
from pipeline.attribution.unrolling.unrolled import GROWTH_LIMIT, UnrolledHarm, unrolled_harm
from pipeline.attribution.unrolling.unrolled_gauss_newton import Pieces, unrolled_gauss_newton_harm

# Name of the recorder -> what reads its recording.
_LOADERS: Mapping[str, Callable[[str | Path], Replay | Pieces]] = {
    "ReplayRecorder": Replay.load,
    "PieceRecorder": Pieces.load,
}


@dataclass(frozen=True)
class Unrolling:
    """What to unroll.

    Attributes:
        method: one that needs a recording.
        recording: of ``ReplayRecorder`` or ``PieceRecorder``.
        seed: of ``unrolled_gauss_newton``'s random batches.
    """

    method: str
    recording: Replay | Pieces
    seed: int = 0


def find_unrolling(
    method: str, recording: str | Path | None, trajectory: Trajectory, queries: bool, seed: int
) -> Unrolling | None:
    """What ``method`` unrolls; None if it is another method.

    Raises:
        AttributionError: there is no recording, no mean query loss, or more than one stage; or the recording is of
            another training than the trajectory.
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
    """``scores`` with unrolled harm; as they are, with a warning, where training was chaotic.

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
