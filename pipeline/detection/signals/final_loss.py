"""The loss of the given label when training has ended."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def final_loss(evidence: Evidence) -> np.ndarray:
    """The loss at the last checkpoint, float64 `[rows]`; a network that memorises makes it small for every row."""
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
