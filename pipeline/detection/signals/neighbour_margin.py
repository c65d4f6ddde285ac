"""Whether a row's nearest neighbours, as the model sees rows early in training, have its label."""

from __future__ import annotations

import numpy as np

from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import OnSets, Signal, register


def neighbour_margin(evidence: Evidence) -> np.ndarray:
    """Cosine-weighted votes of the nearest neighbours: the given label's share minus the best other's.

    With numeric labels minus the distance to the neighbours' mean.
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
