"""Signal: how probable the class probabilities of the user's own model make the label (`data.pred_probs`)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Judged
from pipeline.detection.signals.registry import Signal, register
from pipeline.panel.judges import OWN_PROBABILITIES


def own_confidence(judged: Judged) -> np.ndarray | None:
    """The calibrated probability of the label, float64 `[rows]`; None without probabilities."""
    if OWN_PROBABILITIES.name not in [judge.name for judge in judged.panel.judges]:
        return None
    said = judged.panel.of(OWN_PROBABILITIES.name, judged.role)
    return said[np.arange(len(judged.labels)), judged.labels].astype(np.float64)


OWN_CONFIDENCE = register(
    Signal(
        name="own_confidence",
        label="your model doubts it",
        words="how probable your class probabilities make the label",
        high_is_suspicious=False,
        of_judges=own_confidence,
    )
)
