"""How many of the labels that were flipped on purpose the decisions have found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.canaries import planted_rows
from pipeline.detection.intervals import wilson
from pipeline.text.decisions import Decision

WORDS = (
    "An estimate of how many uniform label errors are found, not of the precision of the flags; errors that follow "
    "the classes' likeness are harder."
)


def canary_recall(run_path: Path, decision: np.ndarray) -> dict[str, Any] | None:
    """Of the planted flips the share that is removed or relabelled, and that is flagged at all, with 95 % intervals.

    decision: uint8 `[rows]`. None for a run without canaries.
    """
    planted = planted_rows(run_path, len(decision))
    number = int(planted.sum())
    if not number:
        return None
    of_planted = decision[planted]
    changed = int(np.isin(of_planted, (Decision.REMOVE, Decision.RELABEL)).sum())
    flagged = int((of_planted != Decision.KEEP).sum())
    return {
        "planted": number,
        "removed": wilson(changed, number) | {"rows": changed},
        "flagged": wilson(flagged, number) | {"rows": flagged},
        "note": WORDS,
    }
