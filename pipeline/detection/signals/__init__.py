"""Signals: the evidence about every row, a file each.

To add a signal, add a file here that calls `register` with a `Signal`. Files of the folder are found by themselves.
From outside, call `register` before the audit.
"""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.detection.signals.registry import Signal, end_of_own, register

__all__ = ["ORDER", "Signal", "register"]

ORDER = (
    "panel_wrong",
    "panel_residual",
    "panel_models",
    "early_margin",
    "early_loss",
    "early_harm",
    "neighbour_margin",
    "clean_neighbours",
    "half_confidence",
    "final_loss",
    "forgetting",
    "self_influence",
    "validation_harm",
    "worst_group_harm",
    "gradient_norm",
    "representation_outlier",
    "near_duplicate",
)
"""Files in the order of the columns of signals.parquet, in which the suspicion is summed; others follow by name."""

for _name in [*ORDER, *sorted({each.name for each in iter_modules(__path__)} - set(ORDER))]:
    import_module(f"{__name__}.{_name}")
end_of_own()
