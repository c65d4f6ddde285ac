"""The share of wrong labels among some rows, and over several sets of rows, from an estimate for the train rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.detection.noise.noise_estimate import NoiseEstimate

CHANCE_WRONG = "panel_wrong"
"""The column of signals.parquet with the probability that a label is wrong."""
NORMAL = 1.96


def share_of_rows(wrong: np.ndarray, of_train: NoiseEstimate) -> NoiseEstimate:
    """The share of wrong labels among rows of another role with the same flips.

    The interval combines the uncertainty of the train estimate with the number of these rows.

    Args:
        wrong: P(given label is wrong), float64 `[rows]`.
        of_train: the estimate for the train rows.
    """
    value = float(wrong.mean())
    shared = (of_train.high - of_train.low) / 2
    half = float(np.hypot(shared, NORMAL * wrong.std() / np.sqrt(len(wrong))))
    return NoiseEstimate.around(value, half)


def mean_of_shares(parts: Sequence[tuple[int, NoiseEstimate]]) -> NoiseEstimate:
    """The share over several sets of rows, given as (number of rows, estimate); their errors are taken as equal."""
    total = sum(rows for rows, _ in parts)
    means = [
        sum(rows * getattr(each, end) for rows, each in parts) / total for end in ("value", "low", "high")
    ]
    return NoiseEstimate(*means)
