"""How much the model leans on a row to get that row right."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def self_influence(evidence: Evidence) -> np.ndarray:
    """SOURCE's self-influence over the whole run in nats, float64 `[rows]`: memorisation."""
    return evidence.score("self_influence")


SELF_INFLUENCE = register(
    Signal(
        name="self_influence",
        label="memorised",
        words="how much the model had to memorise the row",
        high_is_suspicious=True,
        of_training=self_influence,
    )
)
