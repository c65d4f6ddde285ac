"""Signal: how much the model depends on a row to predict that row, which measures memorisation."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def self_influence(evidence: Evidence) -> np.ndarray | None:
    """The self-influence of each row over the whole run, in nats, float64 `[rows]`; None where the method has none."""
    found = evidence.score("self_influence")
    return None if np.isnan(found).all() else found


SELF_INFLUENCE = register(
    Signal(
        name="self_influence",
        label="memorised",
        words="how much the model had to memorise the row",
        high_is_suspicious=True,
        of_training=self_influence,
    )
)
