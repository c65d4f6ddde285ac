"""Almost the same row occurs with another label."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def near_duplicate(evidence: Evidence) -> np.ndarray:
    """float64 `[rows]`: near-duplicates with another label among the row's nearest neighbours."""
    return evidence.represented["near_duplicates"].astype(np.float64)


NEAR_DUPLICATE = register(
    Signal(
        name="near_duplicate",
        label="near copies differ",
        words="how many nearly equal rows have another label",
        high_is_suspicious=True,
        of_training=near_duplicate,
    )
)
