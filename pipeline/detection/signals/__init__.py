"""Signals: the evidence about every row. Each signal has a file of its own.

To add a signal, add a file to this folder that calls `register` with a `Signal`; all files of the folder are imported.
Code outside of this package calls `register` before the audit.
"""

from importlib import import_module
from pkgutil import iter_modules

from pipeline.detection.signals.registry import Signal, end_of_own, register

__all__ = ["ORDER", "Signal", "register"]

ORDER = (
    "panel_wrong",
    "panel_residual",
    "panel_confidence",
    "panel_models",
    "own_embeddings",
    "own_confidence",
    "own_entropy",
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
"""The files in the order of the columns of signals.parquet and of the sum in the suspicion; other files come after
them, by name."""

for _name in [*ORDER, *sorted({each.name for each in iter_modules(__path__)} - set(ORDER))]:
    import_module(f"{__name__}.{_name}")
end_of_own()
