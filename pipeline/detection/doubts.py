"""What speaks against the validation set as a measure for the train set, in sentences with the numbers."""

from __future__ import annotations

import math

import numpy as np

from pipeline.detection.counts import NoiseEstimate

FEW_ROWS = 100
STANDARD_ERRORS = 2.0


def doubts(contradicted: np.ndarray, on_validation: np.ndarray, noise: NoiseEstimate) -> list[str]:
    """contradicted, on_validation: bool `[rows]`, an out-of-sample prediction differs from the label."""
    found = []
    value, low, high = (f"{100 * share:.1f} %" for share in (noise.value, noise.low, noise.high))
    rows, train, validation = len(on_validation), float(contradicted.mean()), float(on_validation.mean())
    if rows < FEW_ROWS:
        found.append(
            f"The validation set has {rows:,} rows: an estimate of {value} may as well be {low} or {high}."
        )
    error = math.sqrt(train * (1 - train) / len(contradicted) + validation * (1 - validation) / rows)
    if validation - train > STANDARD_ERRORS * error:
        found.append(
            f"The halves contradict {100 * validation:.1f} % of the validation labels and {100 * train:.1f} % of the "
            f"train labels: the validation set looks noisier than the train set, or unlike it, and the estimate of "
            f"{value} means little."
        )
    return found
