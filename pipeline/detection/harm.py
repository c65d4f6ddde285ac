"""Signal: the harm to the loss of a clean validation set (high is suspicious)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.combination import Signal


def early_harm(of_window: np.ndarray | None, of_run: np.ndarray) -> Signal:
    """SOURCE's harm over the early window; over the whole run where that is the window."""
    values = of_run if of_window is None else of_window
    return Signal("early_harm", values, True, "how much the row raises the loss on clean validation rows")
