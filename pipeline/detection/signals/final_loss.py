"""Signal: the loss of the given label at the end of training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def final_loss(evidence: Evidence) -> np.ndarray:
    """The loss of each row at the last checkpoint, float64 `[rows]`; it is low for all rows if a network memorises."""
    return evidence.score("final_loss")


FINAL_LOSS = register(
    Signal(
        name="final_loss",
        label="badly fitted",
        words="how badly the label was fitted in the end",
        high_is_suspicious=True,
        of_training=final_loss,
    )
)
