"""The margin of the given label in the early window of training."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import OnSets, Signal, register
from pipeline.training.dynamics import mean_column
from pipeline.training.main_run import main_directory


def early_margin(evidence: Evidence) -> np.ndarray | None:
    """The label's logit minus the largest other, averaged over the early window; classes alone have one."""
    if evidence.task != "classification":
        return None
    return mean_column(main_directory(evidence.path), "margin", evidence.window)


EARLY_MARGIN = register(
    Signal(
        name="early_margin",
        label="prefers other label",
        words="how clearly the model preferred the given label early in training",
        high_is_suspicious=False,
        counts=True,
        of_training=early_margin,
        on_sets=OnSets(
            "how clearly the model preferred the answer (yes or no) to the row's most suspicious label early on",
            lambda pairs: pairs.margin,
        ),
    )
)
