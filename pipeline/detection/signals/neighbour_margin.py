"""Signal: whether the nearest neighbours of a row, in the model's features early in training, have its label."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import OnSets, Signal, register


def neighbour_margin(evidence: Evidence) -> np.ndarray:
    """The vote share of the given label minus that of the best other one, among the nearest neighbours.

    Votes are weighted by the cosine. For numeric labels it is minus the distance from the neighbours' mean.
    """
    return evidence.represented["neighbour_margin"]


NEIGHBOUR_MARGIN = register(
    Signal(
        name="neighbour_margin",
        label="neighbours differ",
        words="whether the rows most like it have the same label",
        high_is_suspicious=False,
        counts=True,
        of_training=neighbour_margin,
        on_sets=OnSets(
            "whether the rows most like it have the same as the answer (yes or no) to the row's most suspicious label",
            lambda pairs: pairs.neighbours,
        ),
    )
)
