"""The loss of the given label in the early window of training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import OnSets, Signal, register
from pipeline.training.dynamics import mean_column
from pipeline.training.main_run import main_directory


def early_loss(evidence: Evidence) -> np.ndarray:
    """The training loss in nats, averaged over the epochs up to e*."""
    return mean_column(main_directory(evidence.path), "loss", evidence.early)


EARLY_LOSS = register(
    Signal(
        name="early_loss",
        label="hard to learn",
        words="how hard the given label was to learn early in training",
        high_is_suspicious=True,
        counts=True,
        of_training=early_loss,
        on_sets=OnSets(
            "how hard the answer (yes or no) to the row's most suspicious label was to learn early in training",
            lambda pairs: pairs.loss,
        ),
    )
)
