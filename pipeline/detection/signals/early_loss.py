"""Signal: the loss of the given label in the early window of training (high is suspicious)."""

from __future__ import annotations

from pathlib import Path

from pipeline.detection.suspicion import Signal
from pipeline.training.dynamics import mean_column
from pipeline.training.main_run import main_directory


def early_loss(run_path: Path, early_epoch: int) -> Signal:
    """The training loss in nats, averaged over the first `early_epoch` epochs."""
    values = mean_column(main_directory(run_path), "loss", early_epoch)
    return Signal("early_loss", values, True, "how hard the given label was to learn early in training")
