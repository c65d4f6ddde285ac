"""What attribution predicts for a change of the train rows, to be set beside what the retrainings measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.verification.arms import Decisions

UNCALIBRATED, BY_ALPHA = "uncalibrated", "alpha"
"""SOURCE with EK-FAC is several times too large in nats; the scale correction α mends that where it is defined."""


def predicted_loss_change(effects: np.ndarray, removed: np.ndarray) -> float:
    """The predicted rise of the mean validation loss, in nats, when rows are removed and the steps kept.

    effects: τ, float `[rows]`, the rise when one row is removed and its steps with it; removed: bool
    `[rows]`, not all. With k of N rows removed and the number of steps kept, the kept rows weigh N/(N−k),
    and the forecast is N/(N−k) · Σ over the removed of (τ_i − mean τ): a set that is like all rows changes
    nothing.
    """
    rows, gone = len(effects), int(removed.sum())
    centred = effects[removed] - effects.mean()
    return float(rows / (rows - gone) * centred.sum())


def run_forecast(run_path: Path, decisions: Decisions, arm: str) -> float | None:
    """The forecast for an arm: of its removals, and of its new labels where `relabel_effect` says what each changes.

    None without a validation set, and where a row's new label has no forecast.
    """
    effects = validation_effects(run_path)
    removed, relabelled = decisions.masks(arm)
    if effects is None or removed.all():
        return None
    found = predicted_loss_change(effects, removed)
    if not relabelled.any():
        return found
    changes = train_column(run_path, "relabel_effect")
    if changes is None or not np.isfinite(changes[relabelled]).all():
        return None
    return found + float(changes[relabelled].sum()) * len(effects) / (len(effects) - int(removed.sum()))


def validation_effects(run_path: Path) -> np.ndarray | None:
    """τ of the mean validation loss, float64 `[train rows]`: minus `validation_harm`; None where it was not scored."""
    harm = train_column(run_path, "validation_harm")
    return None if harm is None or np.isnan(harm).any() else -harm


def train_column(run_path: Path, name: str) -> np.ndarray | None:
    """float64 `[train rows]` of rows.parquet, NaN where null; None where there is no such column."""
    path = run_path / "rows.parquet"
    names = pq.read_schema(path).names
    if name not in names:
        return None
    table = pq.read_table(path, columns=[each for each in (name, "split") if each in names])
    if "split" in names:
        table = table.filter(pc.equal(table["split"], "train"))
    return np.asarray(table[name].cast("float64").to_numpy(), dtype=np.float64)
