"""Recorded losses and gradient norms against what the told objective expects, over the checkpoints of a stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.misfits.expected import Estimate, Expected, checked_rows, expected_at, mean_of
from pipeline.attribution.objectives import Objective, changed_objective
from pipeline.attribution.objectives.reductions import MEAN, ROW_MEAN, SUM
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.trajectory.measured_steps import MeasuredStep
from pipeline.attribution.trajectory.points import Points

SMOOTHED = "smoothed"
# What no estimate is more exact than, as a share: weights move between the steps around a checkpoint.
_FLOOR = 0.1
# Norms that differ by less, as a share of the largest, count as the same.
_SAME_NORM = 1e-3


@dataclass(frozen=True)
class Ratio:
    """What was recorded over what is expected, its mean over checkpoints by logarithms.

    Attributes:
        value: the ratio.
        error: the standard error of its logarithm.
    """

    value: float
    error: float

    def beyond(self, factor: float) -> bool:
        """Returns whether the ratio is further from 1 than a factor, in either direction, and noise can't be why."""
        far = abs(math.log(self.value))
        return far > math.log(factor) and far > 3 * self.error

    def over(self, other: Ratio) -> Ratio:
        """Returns the ratio of two ratios."""
        return Ratio(self.value / other.value, math.hypot(self.error, other.error))


@dataclass(frozen=True)
class Smoothing:
    """The label smoothing that would explain the recorded losses.

    Attributes:
        value: ε; a little less than 0 where training had none.
        told: ε of the told objective.
        error: the standard error of ε.
        fits: whether it explains the losses of the checkpoints better than one factor does.
    """

    value: float
    told: float
    error: float
    fits: bool


@dataclass(frozen=True)
class Comparison:
    """What was recorded in a stage against what the told objective expects.

    Attributes:
        loss: the recorded loss over the told one; None if no loss was recorded, or one isn't positive.
        reductions: reduction -> the recorded loss over that of the objective with this reduction.
        expected_by: reduction -> the loss of the objective with this reduction over the told one.
        smoothing: None for objectives without label smoothing, and where no loss was recorded.
        gradient: the recorded norms over the expected ones; None if no norms were recorded.
        same_norm: (share of the measured steps that have the largest norm, this norm); None as above.
    """

    loss: Ratio | None
    reductions: Mapping[str, Ratio]
    expected_by: Mapping[str, float]
    smoothing: Smoothing | None
    gradient: Ratio | None
    same_norm: tuple[float, float] | None


def compare_stage(points: Points, rows: StageRows, stage: int, seed: int) -> Comparison | None:
    """Compares the measured steps of a stage with the stage's objective.

    Args:
        points: the recorded weights; the model is left at some of them.
        rows: the rows of the stage.
        stage: the number of the stage.
        seed: the seed of the choice of rows.

    Returns:
        None if the stage has no measured steps.
    """
    trajectory = points.trajectory
    places = [place for place, each in enumerate(trajectory.checkpoints) if each.stage == stage]
    last = trajectory.checkpoints[places[-1]].step
    first = trajectory.checkpoints[places[0] - 1].step if places[0] else 0
    steps = [each for each in trajectory.measured if first < each.step <= last]
    if not steps:
        return None
    near: dict[int, list[MeasuredStep]] = {place: [] for place in places}
    for each in steps:
        near[min(places, key=lambda p: abs(trajectory.checkpoints[p].step - each.step))].append(each)
    recorded = trajectory.stages[stage]
    norms = recorded.batch_size if any(each.gradient_norm is not None for each in steps) else None
    others = _others(rows)
    parts = checked_rows(rows, recorded.train_rows, seed)
    found = []
    for place, measured in near.items():
        if measured:
            points.load(place)
            expected = expected_at(
                points.model, rows.objective, others, parts, recorded.train_rows, norms, seed + place
            )
            found.append((measured, expected))
    return _comparison(found, rows.objective)


def _others(rows: StageRows) -> dict[str, Objective]:
    """Returns other objectives that training may have had: with other reductions, and with more label smoothing."""
    options = rows.objective.options or {}
    found: dict[str, Objective | None] = {}
    for reduction in (MEAN, ROW_MEAN, SUM):
        try:
            found[reduction] = changed_objective(rows.objective, reduction=reduction)
        except AttributionError:  # not a reduction of this loss
            continue
    found.pop(options.get("reduction", ""), None)
    if "label_smoothing" in options:
        found[SMOOTHED] = changed_objective(rows.objective, label_smoothing=_more(rows.objective))
    given = {name: each for name, each in found.items() if each is not None}
    return {
        name: each if each.fit is None else each.fit(labels for _, labels in rows.batches)
        for name, each in given.items()
    }


def _more(objective: Objective) -> float:
    """Returns a label smoothing halfway between that of an objective and 1."""
    assert objective.options is not None
    return (1 + float(objective.options["label_smoothing"])) / 2


def _comparison(
    found: Sequence[tuple[Sequence[MeasuredStep], Expected]], objective: Objective
) -> Comparison | None:
    losses = [
        (mean_of([s.loss for s in steps if s.loss is not None]), expected)
        for steps, expected in found
        if any(s.loss is not None for s in steps)
    ]
    losses = [(mean, each) for mean, each in losses if mean.mean > 0 and each.loss.mean > 0]
    squares = [
        (mean_of([s.gradient_norm**2 for s in steps if s.gradient_norm is not None]), expected.squared_norm)
        for steps, expected in found
        if expected.squared_norm is not None and any(s.gradient_norm is not None for s in steps)
    ]
    squares = [(mean, each) for mean, each in squares if mean.mean > 0 and each.mean > 0]
    names = [name for name in (found[0][1].others if found else ()) if name != SMOOTHED]
    by = {
        name: [(mean, Estimate(each.others[name], each.loss.error)) for mean, each in losses]
        for name in names
        if losses
    }
    gradient = _ratio(squares)
    norms = [s.gradient_norm for steps, _ in found for s in steps if s.gradient_norm is not None]
    factors = {
        name: _mean_ratio([(each.others[name], each.loss.mean) for _, each in found]) for name in names
    }
    return Comparison(
        _ratio([(mean, each.loss) for mean, each in losses]),
        {name: ratio for name, pairs in by.items() if (ratio := _ratio(pairs)) is not None},
        {name: factor for name, factor in factors.items() if factor > 0},
        _smoothing(losses, objective),
        None if gradient is None else Ratio(gradient.value**0.5, gradient.error / 2),
        _same_norm(norms) if norms else None,
    )


def _ratio(pairs: Sequence[tuple[Estimate, Estimate]]) -> Ratio | None:
    """Returns the ratio of the first of each pair to the second, exact pairs counting more."""
    if not pairs:
        return None
    weights = [1 / _variance(*pair) for pair in pairs]
    logs = [math.log(first.mean / second.mean) for first, second in pairs]
    mean = sum(w * each for w, each in zip(weights, logs, strict=True)) / sum(weights)
    # Where training is unstable, a checkpoint is not like the steps around it, and ratios scatter.
    scatter = sum(w * (each - mean) ** 2 for w, each in zip(weights, logs, strict=True)) / max(
        1, len(logs) - 1
    )
    return Ratio(math.exp(mean), (max(1.0, scatter) / sum(weights)) ** 0.5)


def _variance(first: Estimate, second: Estimate) -> float:
    return first.error**2 + second.error**2 + _FLOOR**2


def _mean_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(first for first, _ in pairs) / max(sum(second for _, second in pairs), 1e-300)


def _smoothing(losses: Sequence[tuple[Estimate, Expected]], objective: Objective) -> Smoothing | None:
    """Fits ε: the loss is linear in ε, and the recorded losses of all checkpoints should lie on the same ε."""
    if not losses or any(SMOOTHED not in expected.others for _, expected in losses):
        return None
    assert objective.options is not None
    told = float(objective.options["label_smoothing"])
    slopes = [
        (expected.others[SMOOTHED] - expected.loss.mean) / (_more(objective) - told) for _, expected in losses
    ]
    rises = [mean.mean - expected.loss.mean for mean, expected in losses]
    weights = [1 / (mean.mean**2 * _variance(mean, expected.loss)) for mean, expected in losses]
    curvature = sum(w * slope**2 for w, slope in zip(weights, slopes, strict=True))
    if curvature == 0:
        return None
    more = sum(w * slope * rise for w, slope, rise in zip(weights, slopes, rises, strict=True)) / curvature
    factor = _ratio([(mean, expected.loss) for mean, expected in losses])
    assert factor is not None
    residual = sum(w * (rise - more * s) ** 2 for w, s, rise in zip(weights, slopes, rises, strict=True))
    by_factor = sum(
        w * (mean.mean - factor.value * expected.loss.mean) ** 2
        for w, (mean, expected) in zip(weights, losses, strict=True)
    )
    fits = -_FLOOR < told + more < 1 and residual < by_factor
    return Smoothing(told + more, told, curvature**-0.5, fits)


def _same_norm(norms: Sequence[float]) -> tuple[float, float]:
    largest = max(norms)
    same = sum(norm >= largest * (1 - _SAME_NORM) for norm in norms)
    return same / len(norms), largest
