"""Signal: the harm to the loss of a clean validation set (high is suspicious)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.combination import Signal


def early_harm(values: np.ndarray) -> Signal:
    """SOURCE's harm over the early window, which may be the whole run; float64 `[rows]`."""
    return Signal("early_harm", values, True, "how much the row raises the loss on clean validation rows")
