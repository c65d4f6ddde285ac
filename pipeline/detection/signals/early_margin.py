"""Signal: the margin of the given label in the early window of training (low is suspicious)."""

from __future__ import annotations

from pathlib import Path

from pipeline.detection.suspicion import Signal
from pipeline.training.dynamics import mean_column
from pipeline.training.main_run import main_directory


def early_margin(run_path: Path, window: int) -> Signal:
    """The label's logit minus the largest other, averaged over the first `window` epochs."""
    values = mean_column(main_directory(run_path), "margin", window)
    return Signal(
        "early_margin", values, False, "how clearly the model preferred the given label early in training"
    )
