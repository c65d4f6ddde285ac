"""Signal: how undecided the class probabilities of the user's own model are (`data.pred_probs`)."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Judged
from pipeline.detection.signals.registry import Signal, register
from pipeline.panel.judges import OWN_PROBABILITIES


def own_entropy(judged: Judged) -> np.ndarray | None:
    """The entropy of the calibrated probabilities in nats, float64 `[rows]`; None without probabilities."""
    if OWN_PROBABILITIES.name not in [judge.name for judge in judged.panel.judges]:
        return None
    said = np.asarray(judged.panel.of(OWN_PROBABILITIES.name, judged.role), dtype=np.float64)
    return -(said * np.log(np.maximum(said, 1e-300))).sum(1)


OWN_ENTROPY = register(
    Signal(
        name="own_entropy",
        label="your model is undecided",
        words="how undecided your class probabilities are between the classes",
        high_is_suspicious=True,
        of_judges=own_entropy,
    )
)
