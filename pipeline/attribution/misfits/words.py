"""What doesn't fit between training and the loss that ``attribute`` is told, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.attribution.misfits.compared import Comparison, Ratio, compare_stage
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.trajectory.points import Points

# Factors up to which a loss, a gradient and another objective count as the same. Rows that training hasn't seen for an
# epoch have larger losses than the mean row.
_FITS, _NAMED = 1.4, 1.25
# The difference of label smoothing that is looked for. More smoothing raises losses more than gradients, by this factor
# at least; losses that are larger for other reasons have larger gradients too.
_SMOOTHING, _RAISED = 0.03, 1.15
# The share of steps with one and the same norm from which gradients count as clipped, and the factor from which it
# matters.
_CLIPPED, _CLIPPED_FACTOR = 0.25, 1.1


@dataclass(frozen=True)
class Remedies:
    """What to do about a misfit. ``{name}`` stands for the loss that is told, ``{reduction}`` for the one that fits.

    Attributes:
        reduction: another reduction fits.
        smoothing: another label smoothing fits.
        loss: training's losses are others.
    """

    reduction: str = "give loss={name}(reduction={reduction!r}) with the other options as they are."
    smoothing: str = "give loss={name}(label_smoothing=…) with the value of training."
    loss: str = "Tell attribute the loss of training."


IN_ATTRIBUTE = Remedies()


def misfits(
    points: Points, rows: StageRows, stage: int, seed: int, remedies: Remedies = IN_ATTRIBUTE
) -> list[str]:
    """Returns sentences that say what in a stage doesn't fit the stage's objective, and by which factor.

    Args:
        points: the recorded weights; the model is left at some of them.
        rows: the rows of the stage.
        stage: the number of the stage.
        seed: the seed of the choice of rows.
        remedies: what to do about each misfit.
    """
    found = compare_stage(points, rows, stage, seed)
    if found is None:
        return []
    where = f"Stage {stage}: " if len(points.trajectory.stages) > 1 else ""
    batch_size = points.trajectory.stages[stage].batch_size
    return [where + each for each in said_of(found, rows.objective, batch_size, remedies)]


def said_of(
    found: Comparison, objective: Objective, batch_size: int | None, remedies: Remedies = IN_ATTRIBUTE
) -> Iterator[str]:
    """Yields a sentence or two for each misfit of a comparison."""
    name = objective.name
    loss_fits = found.loss is None or not found.loss.beyond(_FITS)
    explained = _by_reduction(found, name, remedies) or _by_smoothing(found, name, remedies)
    if explained is not None:
        yield explained
    if found.loss is not None and not loss_fits and explained is None:
        if found.gradient is not None and not found.gradient.beyond(_FITS):
            yield (
                f"The losses given to recorder.step() are {_times(found.loss)} the loss {name!r} at the recorded "
                "weights, but the gradients fit it. Give the loss as it is before it is divided for accumulation."
            )
            return
        yield (
            f"Training's losses are {_times(found.loss)} the loss {name!r} of the rows at the recorded weights, and "
            f"scores are those of the loss that is told. {remedies.loss} A penalty in the loss, "
            "augmentation and row weights can be the cause too."
        )
    if found.gradient is not None and not (explained is not None and _smoothed(found)):
        yield from _of_gradients(found, explained is not None, batch_size)


def _by_reduction(found: Comparison, name: str, remedies: Remedies) -> str | None:
    """Returns what to do if another reduction explains the loss or, where it isn't known, the gradient."""
    seen = found.gradient if found.loss is None else found.loss
    if seen is None or not seen.beyond(_FITS) or (found.loss is None and _is_clipped(found)):
        return None
    for reduction, factor in found.expected_by.items():
        ratio = found.reductions.get(reduction)
        if ratio is None:
            ratio = Ratio(seen.value / factor, seen.error)
        if not ratio.beyond(_NAMED) and abs(ratio.value - 1) < abs(seen.value - 1):
            what = "losses" if found.loss is not None else "gradients"
            return (
                f"Training's {what} are {_times(seen)} those of the loss {name!r} of the rows at the recorded "
                f"weights, and scores have another scale than training. They fit reduction={reduction!r}: "
                + remedies.reduction.format(name=name, reduction=reduction)
            )
    return None


def _smoothed(found: Comparison) -> bool:
    smoothing, loss = found.smoothing, found.loss
    if smoothing is None or loss is None or not smoothing.fits:
        return False
    raised = loss if found.gradient is None else loss.over(found.gradient)
    more, sure = smoothing.value - smoothing.told, 4 if found.gradient is None else 2
    factors = (loss.value, raised.value) if more > 0 else (1 / loss.value, 1 / raised.value)
    return abs(more) > max(_SMOOTHING, sure * smoothing.error) and factors[0] > 1 and factors[1] > _RAISED


def _by_smoothing(found: Comparison, name: str, remedies: Remedies) -> str | None:
    if not _smoothed(found):
        return None
    assert found.smoothing is not None
    assert found.loss is not None
    return (
        f"Training's losses are {_times(found.loss)} the loss {name!r} of the rows at the recorded weights. They fit "
        f"label smoothing of {max(0.0, found.smoothing.value):.2g}, not {found.smoothing.told:g}: "
        + remedies.smoothing.format(name=name)
    )


def _is_clipped(found: Comparison) -> bool:
    return found.same_norm is not None and found.same_norm[0] >= _CLIPPED


def _of_gradients(found: Comparison, loss_explained: bool, batch_size: int | None) -> Iterator[str]:
    """Yields what is wrong with gradients beyond what the loss explains."""
    assert found.gradient is not None
    assert found.same_norm is not None
    own = found.gradient
    if found.loss is not None and (loss_explained or found.loss.beyond(_FITS)):
        own = own.over(found.loss)
    elif loss_explained:
        return
    share, norm = found.same_norm
    if _is_clipped(found) and own.value < 1 and own.beyond(_CLIPPED_FACTOR):
        yield (
            f"The gradients that training applied are {_times(own)} those of the loss: {share:.0%} of the measured "
            f"steps have the norm {norm:.3g}, as after clip_grad_norm_. Attribution doesn't know of clipping: scores "
            "have another scale than training. Use their ranking, or train with a larger limit."
        )
    elif own.beyond(_FITS):
        yield (
            f"The gradients that training applied are {_times(own)} those of a mean over batch_size={batch_size} rows, "
            "and scores have another scale than training. "
            + (
                "Divide the loss by the number of backward() calls of a step, or correct batch_size."
                if own.value > 1
                else "Look for clipped or scaled gradients, or correct batch_size."
            )
        )


def _times(ratio: Ratio) -> str:
    return f"{ratio.value:.2g} times"
