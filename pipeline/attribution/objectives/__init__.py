"""Training objectives, one file each, and functions with which you can build your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.objectives.binary_cross_entropy import binary_cross_entropy
from pipeline.attribution.objectives.cross_entropy import IGNORED as IGNORED
from pipeline.attribution.objectives.cross_entropy import cross_entropy
from pipeline.attribution.objectives.custom import (
    gradients_of_drawn_labels,
    no_exact_gradients,
    signed_columns,
)
from pipeline.attribution.objectives.objective import Objective, check_objective, no_margins
from pipeline.attribution.objectives.squared_error import squared_error

__all__ = [
    "Objective",
    "binary_cross_entropy",
    "changed_objective",
    "check_objective",
    "cross_entropy",
    "get_objective",
    "gradients_of_drawn_labels",
    "no_exact_gradients",
    "no_margins",
    "signed_columns",
    "squared_error",
]

_OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
}


def get_objective(name: str, **options: Any) -> Objective:
    """Returns the objective called ``name``.

    Args:
        name: ``cross_entropy``, ``squared_error`` or ``binary_cross_entropy``.
        options: the options of the function of this name, such as ``label_smoothing``.

    Raises:
        AttributionError: there is no objective of this name, or it has no such option.
    """
    if name not in _OBJECTIVES:
        raise AttributionError(f"There is no loss called {name!r}.", f"Use one of: {', '.join(_OBJECTIVES)}.")
    make = _OBJECTIVES[name]
    allowed = set(inspect.signature(make).parameters)
    unknown = sorted(set(options) - allowed)
    if unknown:
        known = f"Its options are: {', '.join(sorted(allowed))}."
        raise AttributionError(f"The loss {name!r} has no option {unknown[0]!r}.", known)
    return make(**options)


def changed_objective(objective: Objective, **options: Any) -> Objective | None:
    """Returns an objective of this package with some other options, or None if it has no such options.

    Raises:
        AttributionError: an option has a value that it can't have.
    """
    if objective.options is None or not set(options) <= set(objective.options):
        return None
    return get_objective(objective.name, **{**objective.options, **options})
