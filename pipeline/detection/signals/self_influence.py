"""Signal that does not count: how much the model leans on a row to get that row right (high is suspicious)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.suspicion import Signal


def self_influence(values: np.ndarray) -> Signal:
    """SOURCE's self-influence over the whole run in nats, float64 `[rows]`: memorisation."""
    return Signal("self_influence", values, True, "how much the model had to memorise the row", counts=False)
