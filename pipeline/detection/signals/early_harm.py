"""Signal: the harm of a row to the loss of a clean validation set, early in training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register

WHOLE = 0.2
"""From this share of wrong labels on, harm has the weight 1."""
LEAST_WEIGHT = 0.3
"""The lowest weight, since the estimate is blind to wrong labels that follow the model's own confusion."""
UNKNOWN = 0.5
"""The weight without an estimate."""


def early_harm(evidence: Evidence) -> np.ndarray | None:
    """The harm of each row by SOURCE over the early window (which may be the whole run), in nats, float64 `[rows]`.

    Returns:
        None unless the validation labels are declared right.
    """
    if not evidence.context.config.data.validation_is_clean or not evidence.data.count("validation"):
        return None
    of_window = evidence.context.run.facts("attribute")["early_harm"]
    return evidence.score("early_harm" if of_window else "validation_harm")


def harm_weight(noise: NoiseEstimate | None) -> float:
    """The weight of harm, proportional to the share of wrong labels: if few are wrong, rare right rows harm most."""
    return UNKNOWN if noise is None else max(LEAST_WEIGHT, min(1.0, noise.value / WHOLE))


EARLY_HARM = register(
    Signal(
        name="early_harm",
        label="harms validation",
        words="how much the row raises the loss on clean validation rows",
        high_is_suspicious=True,
        counts=True,
        of_training=early_harm,
        weight=harm_weight,
    )
)
