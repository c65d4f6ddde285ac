"""The harm to the class or slice of the validation rows that a row harms most."""

from __future__ import annotations

import numpy as np

from pipeline.detection.group_harm import read_group_harm
from pipeline.detection.signals.evidence import Evidence
from pipeline.detection.signals.registry import Signal, register
from pipeline.scoring.groups import scored_groups


def worst_group_harm(evidence: Evidence) -> np.ndarray | None:
    """The largest harm to a class or a slice, in nats of its mean loss; None where groups were not scored."""
    groups = scored_groups(evidence.path)
    if groups is None:
        return None
    whole = [
        place for place, group in enumerate(groups.groups) if group.label is None or group.column is None
    ]
    values = np.empty(evidence.data.count("train"))
    for rows, harm in read_group_harm(evidence.path, evidence.data, groups):
        values[rows] = harm[:, whole].max(1)
    return values


WORST_GROUP_HARM = register(
    Signal(
        name="worst_group_harm",
        label="harms a class or slice",
        words="how much the row raises the final loss of the class or slice that it harms most",
        high_is_suspicious=True,
        of_training=worst_group_harm,
    )
)
