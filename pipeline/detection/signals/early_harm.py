"""The harm to the loss of a clean validation set, early in training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register

WHOLE = 0.2
"""From this share of wrong labels on, harm counts as much as any other signal."""
LEAST_WEIGHT = 0.3
"""Not less, since the estimate is blind to wrong labels that follow the model's own confusion."""
UNKNOWN = 0.5
"""The weight where there is no estimate."""


def early_harm(evidence: Evidence) -> np.ndarray | None:
    """SOURCE's harm over the early window, which may be the whole run; float64 `[rows]`.

    Only with validation labels that are clean.
    """
    if not evidence.context.config.data.validation_is_clean or not evidence.data.count("validation"):
        return None
    of_window = evidence.context.run.facts("attribute")["early_harm"]
    return evidence.score("early_harm" if of_window else "validation_harm")


def harm_weight(noise: NoiseEstimate | None) -> float:
    """In proportion to the share of wrong labels: where few are wrong, rare but right rows are the most harmful."""
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
