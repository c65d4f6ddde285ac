"""Signal that does not count: the loss of the given label when training has ended (high is suspicious)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.suspicion import Signal


def final_loss(values: np.ndarray) -> Signal:
    """The loss at the last checkpoint, float64 `[rows]`; a network that memorises makes it small for every row."""
    return Signal("final_loss", values, True, "how badly the label was fitted in the end", counts=False)
