"""Validates the options of ``attribute``, and rejects those that the chosen method ignores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import METHODS, methods_of


def check_options(method: str, given: Mapping[str, bool]) -> None:
    """Raises AttributionError for an option that is given, other than by default, to a method that ignores it."""
    for option, is_given in given.items():
        if is_given and option not in METHODS[method].options:
            others = " or ".join(repr(name) for name in methods_of(option))
            raise AttributionError(
                f"{option} has no effect with method={method!r}.", f"Leave it out, or use method={others}."
            )


def check_values(options: Mapping[str, object]) -> None:
    """Raises AttributionError for an option whose value isn't one of those that it can have.

    Args:
        options: names, of those that have a rule in this file, and values.
    """
    for option, value in options.items():
        allowed, hint = _VALUES[option]
        if not allowed(value):
            shown = repr(value) if isinstance(value, str) else value
            raise AttributionError(f"{option} is {shown}.", hint)


def check_calibration(segments: int | Sequence[int], stages: int, mean_query: bool) -> None:
    """Raises AttributionError where ``calibrate`` has no effect, since no scale is defined (``scale``)."""
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


def check_relabelling(mean_query: bool) -> None:
    """Raises AttributionError where ``relabel`` has no effect, since no query's loss could change."""
    if not mean_query:
        raise AttributionError(
            "relabel has no effect without the mean query loss.",
            "Give queries with reduce_queries=True, or leave it out.",
        )


def is_cut(segments: int | Sequence[int]) -> bool:
    """Whether a stage is cut into several segments."""
    return any(count != 1 for count in ([segments] if isinstance(segments, int) else segments))


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _counts(value: object) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(_counts(each) for each in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> float:
    """NaN, which is in no range, for what is no number."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan


_VALUES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "segments": (_counts, "Give a whole number, or one for each stage."),
    "query_at": (lambda value: value in ("tail", "final"), "Use 'tail' or 'final'."),
    "labels": (lambda value: value in ("sampled", "exact"), "Use 'sampled' or 'exact'."),
    "seed": (_whole, "Give a whole number."),
    "damping": (
        lambda value: value is None or 0 <= _number(value) < math.inf,
        "Give a number that isn't negative, or None for a tenth of each layer's mean eigenvalue.",
    ),
    "query_tolerance": (lambda value: 0 <= _number(value) < 1, "Give a share from 0, less than 1."),
    "projection": (_whole, "Give how many numbers to project to."),
}
