"""Warnings that the validation set may be no good measure for the train set, with the numbers."""

from __future__ import annotations

import math

import numpy as np

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.text import words

FEW_ROWS = 100
STANDARD_ERRORS = 2.0


def doubts(contradicted: np.ndarray, on_validation: np.ndarray, noise: NoiseEstimate | None) -> list[str]:
    """The warnings, in sentences.

    Args:
        contradicted: `[train rows]`, whether the out-of-sample prediction differs from the label.
        on_validation: `[validation rows]`, how often the halves' predictions differ from the label, 0 … 1.
        noise: the estimate from both, or None.
    """
    found = []
    rows, train, validation = len(on_validation), float(contradicted.mean()), float(on_validation.mean())
    if rows < FEW_ROWS:
        found.append(f"The validation set has {words.rows(rows)}{_too_few(noise)}.")
    error = math.sqrt(train * (1 - train) / len(contradicted) + validation * (1 - validation) / rows)
    if validation - train > STANDARD_ERRORS * error:
        so = "" if noise is None else f", and the estimate of {words.percent(noise.value)} means little"
        found.append(
            f"The halves contradict {words.percent(validation)} of the validation labels and {words.percent(train)} of "
            f"the train labels: the validation set looks noisier than the train set, or unlike it{so}."
        )
    return found


def _too_few(noise: NoiseEstimate | None) -> str:
    if noise is None:
        return ", too few to measure how often the halves err on right labels"
    value, low, high = (words.percent(share) for share in (noise.value, noise.low, noise.high))
    return f": an estimate of {value} may as well be {low} or {high}"
