"""What attribution predicts for the removal of a set, to be set beside what the retrainings measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def run_forecast(run_path: Path, decisions: Decisions) -> float | None:
    """The forecast for the cleaned arm; τ is minus `validation_harm`.

    None without a validation set, and when rows get another label, whose effect attribution doesn't score.
    """
    effects = validation_effects(run_path)
    if effects is None or decisions.relabelled.any() or decisions.removed.all():
        return None
    return predicted_loss_change(effects, decisions.removed)


def validation_effects(run_path: Path) -> np.ndarray | None:
    """τ of the mean validation loss, float64 `[rows]`: minus `validation_harm`; None where it was not scored."""
    harm = pq.read_table(run_path / "rows.parquet", columns=["validation_harm"])["validation_harm"]
    return None if harm.null_count else -harm.to_numpy()
