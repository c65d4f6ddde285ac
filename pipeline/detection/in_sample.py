"""Whether the class probabilities of a user's own model look as if the model had seen the rows in training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.judges.class_judges import Judges
from pipeline.detection.noise.wrong_share import LEAST_EXPLAINED, estimate_wrong_share, is_told
from pipeline.panel.judges import OWN_PROBABILITIES

LEAST_CONTRADICTED = 0.5
"""Probabilities that contradict a smaller part of the wrong labels that other judges find look in-sample."""


def looks_in_sample(judges: Judges, given: np.ndarray, seed: int) -> bool:
    """Whether the probabilities contradict far fewer labels than the other judges find wrong.

    A model that has not seen a row does not know its wrong label. So it contradicts about as many labels as are wrong,
    or more. The other judges' estimate has to tell wrong labels from hard rows, and its lower end counts.

    Args:
        judges: of the run.
        given: the given labels, int64 `[train rows]`.
        seed: of the estimate.
    """
    if OWN_PROBABILITIES.name not in [judge.name for judge in judges.judges]:
        return False
    others = judges.without_own_probabilities()
    if others.explains < LEAST_EXPLAINED:
        return False
    share = estimate_wrong_share(others.opinions("train"), others.weights(), given, seed).estimate
    contradicted = float((others.together("train").argmax(1) != given).mean())
    by_own = float((judges.of(OWN_PROBABILITIES.name, "train").argmax(1) != given).mean())
    return is_told(share, contradicted) and by_own < LEAST_CONTRADICTED * share.low
