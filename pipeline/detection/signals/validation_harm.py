"""Signal that does not count: the harm to the validation loss by the end of training (high is suspicious)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.suspicion import Signal


def validation_harm(values: np.ndarray) -> Signal:
    """SOURCE's harm over the whole run in nats, float64 `[rows]`, whether or not the validation labels are clean."""
    return Signal(
        "validation_harm", values, True, "how much the row raises the final validation loss", counts=False
    )
