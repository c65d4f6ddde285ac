"""How far a row lies from its class, in the model's features."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def representation_outlier(evidence: Evidence) -> np.ndarray:
    """float64 `[rows]`: robust standard deviations of its class between the row and the middle of its class."""
    return evidence.represented["own_distance"].astype(np.float64)


REPRESENTATION_OUTLIER = register(
    Signal(
        name="representation_outlier",
        label="unlike its class",
        words="how far the row lies from the rows of its label, as the model sees them early in training",
        high_is_suspicious=True,
        of_training=representation_outlier,
    )
)
