"""Forecasts by attribution of what a change of the train rows does, for comparison with the retrainings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.verification.arms import Decisions

UNCALIBRATED, BY_ALPHA = "uncalibrated", "alpha"
"""How forecasts are scaled. SOURCE with EK-FAC predicts several times too much in nats; where the scale correction α
is defined, it corrects that."""


def predicted_loss_change(effects: np.ndarray, removed: np.ndarray) -> float:
    """The predicted rise of the mean validation loss, in nats, if rows are removed and the number of steps is kept.

    If k of N rows are removed and the number of steps is kept, each kept row weighs N/(N−k) times as much. The forecast
    is N/(N−k) · Σ (τ_i − mean τ) over the removed rows, so that removing average rows changes nothing.

    Args:
        effects: τ, float `[rows]`, the rise in nats if one row and its steps are removed.
        removed: bool `[rows]`, not all True.
    """
    rows, gone = len(effects), int(removed.sum())
    centred = effects[removed] - effects.mean()
    return float(rows / (rows - gone) * centred.sum())


def run_forecast(run_path: Path, decisions: Decisions, arm: str) -> float | None:
    """The predicted rise of the mean validation loss under an arm, in nats: by its removals and its new labels.

    The column `relabel_effect` has the effect of each new label.

    Returns:
        None without validation rows, if the arm removes all rows, or if a new label has no forecast.
    """
    effects = validation_effects(run_path)
    removed, relabelled = decisions.masks(arm)
    if effects is None or removed.all():
        return None
    found = predicted_loss_change(effects, removed)
    if not relabelled.any():
        return found
    changes = _train_column(run_path, "relabel_effect")
    if changes is None or not np.isfinite(changes[relabelled]).all():
        return None
    return found + float(changes[relabelled].sum()) * len(effects) / (len(effects) - int(removed.sum()))


def validation_effects(run_path: Path) -> np.ndarray | None:
    """τ of the mean validation loss, float64 `[train rows]`, which is −`validation_harm`; None if it was not scored."""
    harm = _train_column(run_path, "validation_harm")
    return None if harm is None or np.isnan(harm).any() else -harm


def _train_column(run_path: Path, name: str) -> np.ndarray | None:
    """A column of rows.parquet, float64 `[train rows]` with NaN for null; None if there is no such column."""
    path = run_path / "rows.parquet"
    names = pq.read_schema(path).names
    if name not in names:
        return None
    table = pq.read_table(path, columns=[each for each in (name, "split") if each in names])
    if "split" in names:
        table = table.filter(pc.equal(table["split"], "train"))
    return np.asarray(table[name].cast("float64").to_numpy(), dtype=np.float64)
