"""The harm to the validation loss by the end of training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def validation_harm(evidence: Evidence) -> np.ndarray | None:
    """SOURCE's harm over the whole run in nats, float64 `[rows]`, whether or not the validation labels are clean."""
    return evidence.score("validation_harm") if evidence.data.count("validation") else None


VALIDATION_HARM = register(
    Signal(
        name="validation_harm",
        label="harms validation, whole run",
        words="how much the row raises the final validation loss",
        high_is_suspicious=True,
        of_training=validation_harm,
    )
)
