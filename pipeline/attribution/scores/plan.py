"""Where a method takes gradients along a trajectory, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.attribution.curvature.preconditioners import Preconditioner, segment_preconditioners
from pipeline.attribution.curvature.segment_functions import (
    Spectrum,
    flat_spectrum,
    influence_spectrum,
    source_spectrum,
)
from pipeline.attribution.methods import Method
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.trajectory.points import Points
from pipeline.attribution.trajectory.trajectory import Segment


@dataclass(frozen=True)
class PlannedSegment:
    """What fitting, solving and scoring need of one segment.

    Attributes:
        points: where its gradients are taken, as numbers for ``Points.load``.
        spectrum: what the segment does to a direction of eigenvalue σ.
        preconditioners: what its optimizer does besides.
        fitted_on: the stage whose rows its curvature is of; None where no curvature counts.
        stages: those whose rows it trained on.
        damping: λ with which F_r is about 1/(σ + λ); None where the method has its own, or the segment has learning
            rates of 0 alone.
        lr_sum: the sum of its effective learning rates; 0 where the method doesn't take it.
    """

    points: tuple[int, ...]
    spectrum: Spectrum
    preconditioners: Mapping[str, Preconditioner]
    fitted_on: int | None
    stages: tuple[int, ...]
    damping: float | None = None
    lr_sum: float = 0.0


def plan_chains(
    points: Points,
    method: Method,
    stages: Sequence[StageRows],
    segments: int | Sequence[int] = 1,
    damping: float | None = None,
) -> list[list[PlannedSegment]]:
    """The segments of a method, first to last; one list for each end of training that it takes on its own.

    Args:
        points: changed for methods that take gradients at means.
        stages: the rows of every stage.
        segments: as in ``Trajectory.segments``.
        damping: of influence functions, as in ``spectrum.influence_spectrum``.

    Raises:
        AttributionError: the checkpoints can't be cut so.
        CheckpointError: a checkpoint has no state of Adam.
    """
    trajectory = points.trajectory
    if method.points == "end":
        last, every = len(trajectory.checkpoints) - 1, tuple(range(len(stages)))
        spectrum = influence_spectrum(damping) if method.curved else flat_spectrum(1.0)
        fitted_on = len(stages) - 1 if method.curved else None
        return [[PlannedSegment((last,), spectrum, {}, fitted_on, every)]]
    if method.apart:
        in_stages = [checkpoint.stage for checkpoint in trajectory.checkpoints]
        cuts = trajectory.segments([in_stages.count(stage) for stage in range(len(stages))])
        return [[_planned(points, method, cut, stages[cut.stage])] for cut in cuts]
    cuts = trajectory.segments(segments)
    return [[_planned(points, method, cut, stages[cut.stage]) for cut in cuts]]


def _planned(points: Points, method: Method, cut: Segment, rows: StageRows) -> PlannedSegment:
    preconditioners = segment_preconditioners(
        points.model, points.trajectory, cut, preconditioned=method.preconditioned
    )
    where = (points.add_mean(cut.checkpoints, rows),) if method.points == "mean" else cut.checkpoints
    if not method.curved:
        # Decay is part of the curvature.
        rates = {name: each.root for name, each in preconditioners.items() if each.root is not None}
        scaled = {name: Preconditioner(root, None) for name, root in rates.items()}
        return PlannedSegment(where, flat_spectrum(cut.lr_sum), scaled, None, (cut.stage,))
    spectrum = source_spectrum(cut.lr_sum, cut.weight_decay)
    damping = cut.weight_decay + 1.0 / cut.lr_sum if cut.lr_sum else None
    return PlannedSegment(where, spectrum, preconditioners, cut.stage, (cut.stage,), damping, cut.lr_sum)
