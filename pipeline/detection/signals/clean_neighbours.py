"""Whether the nearest validation rows, whose labels are right, have a row's label."""

from __future__ import annotations

import numpy as np

from pipeline.detection.representation.represent import CLEAN
from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register


def clean_neighbours(evidence: Evidence) -> np.ndarray | None:
    """As `neighbour_margin`, of clean validation rows; None where there are none, and with sets of labels."""
    return None if evidence.task == "multilabel" else evidence.represented.get(CLEAN)


CLEAN_NEIGHBOURS = register(
    Signal(
        name="clean_neighbours",
        label="clean neighbours differ",
        words="whether the clean validation rows most like it have the same label",
        high_is_suspicious=False,
        counts=True,
        of_training=clean_neighbours,
    )
)
