"""Validates the options of ``attribute`` and rejects options that the chosen method ignores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import METHODS, methods_of

# A layer with more outputs keeps the covariance of its output gradients as a diagonal: a matrix for 50,000 outputs
# would take 20 GB, and its eigenvectors hours.
WIDEST_OUTPUTS = 4096


def check_options(method: str, given: Mapping[str, bool]) -> None:
    """Checks that the method uses every option that the caller gave.

    Args:
        method: the name of the method.
        given: option -> whether its value differs from the default.

    Raises:
        AttributionError: the method ignores an option that was given.
    """
    for option, is_given in given.items():
        if is_given and option not in METHODS[method].options:
            others = " or ".join(repr(name) for name in methods_of(option))
            raise AttributionError(
                f"{option} has no effect with method={method!r}.", f"Leave it out, or use method={others}."
            )


def check_values(options: Mapping[str, object]) -> None:
    """Checks the values of options.

    Args:
        options: option -> value. Every option needs a rule in ``_VALUES`` below.

    Raises:
        AttributionError: an option has a value that isn't allowed.
    """
    for option, value in options.items():
        allowed, hint = _VALUES[option]
        if not allowed(value):
            shown = repr(value) if isinstance(value, str) else value
            raise AttributionError(f"{option} is {shown}.", hint)


def check_calibration(segments: int | Sequence[int], stages: int, mean_query: bool) -> None:
    """Checks that ``calibrate`` has an effect: it needs a scale, as defined in ``queries/scale.py``.

    Args:
        segments: the number of segments, for every stage or for each.
        stages: the number of training stages.
        mean_query: whether the mean query loss is asked for.

    Raises:
        AttributionError: ``calibrate`` has no effect.
    """
    if not mean_query:
        condition = "without the mean query loss"
        hint = "Give queries with reduce_queries=True, or leave it out."
    elif stages > 1:
        condition, hint = f"with {stages} stages of training", "Leave it out."
    elif is_cut(segments):
        condition, hint = f"with segments={segments}", "Use one segment, or leave it out."
    else:
        return
    raise AttributionError(f"calibrate has no effect {condition}.", hint)


def check_mean_query(option: str, mean_query: bool) -> None:
    """Checks that ``relabel`` or ``per_token`` has an effect: they are about the mean query loss.

    Raises:
        AttributionError: the mean query loss isn't asked for.
    """
    if not mean_query:
        raise AttributionError(
            f"{option} has no effect without the mean query loss.",
            "Give queries with reduce_queries=True, or leave it out.",
        )


def is_cut(segments: int | Sequence[int]) -> bool:
    """Returns whether a stage is cut into several segments."""
    return any(count != 1 for count in ([segments] if isinstance(segments, int) else segments))


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _counts(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_counts(each) for each in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> float:
    """Returns the value as a float, or NaN, which is in no range, if the value is no number."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


_VALUES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "segments": (_counts, "Give a whole number, or one for each stage."),
    "query_at": (lambda value: value in ("tail", "final"), "Use 'tail' or 'final'."),
    "fisher": (lambda value: value in ("mc", "exact"), "Use 'mc' or 'exact'."),
    "seed": (_whole, "Give a whole number."),
    "damping": (
        lambda value: value is None or 0 <= _number(value) < math.inf,
        "Give a number that isn't negative, or None for a tenth of each layer's mean eigenvalue.",
    ),
    "query_tolerance": (lambda value: 0 <= _number(value) < 1, "Give a share from 0, less than 1."),
    "projection": (_whole, "Give how many numbers to project to."),
    "widest_outputs": (lambda value: _whole(value) and _number(value) >= 1, "Give a whole number from 1."),
}
