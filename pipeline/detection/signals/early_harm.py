"""Signal: the harm to the loss of a clean validation set (high is suspicious)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.detection.counts import NoiseEstimate
from pipeline.detection.suspicion import Signal

NAME = "early_harm"
WHOLE = 0.2
"""From this share of wrong labels on, harm counts as much as any other signal."""
LEAST_WEIGHT = 0.3
"""Not less, since the estimate is blind to wrong labels that follow the model's own confusion."""
UNKNOWN = 0.5
"""The weight where there is no estimate."""


def early_harm(values: np.ndarray) -> Signal:
    """SOURCE's harm over the early window, which may be the whole run; float64 `[rows]`."""
    return Signal(NAME, values, True, "how much the row raises the loss on clean validation rows")


def harm_weight(noise: NoiseEstimate | None) -> float:
    """In proportion to the share of wrong labels: where few are wrong, rare but right rows are the most harmful."""
    return UNKNOWN if noise is None else max(LEAST_WEIGHT, min(1.0, noise.value / WHOLE))


def with_harm_weight(signals: list[Signal], noise: NoiseEstimate | None) -> list[Signal]:
    """Harm's signals, repeats' too, get their weight."""
    weight = harm_weight(noise)
    return [replace(each, weight=weight) if each.name.startswith(NAME) else each for each in signals]
