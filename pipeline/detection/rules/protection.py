"""No harm: what is never removed by default, however suspicious it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.text import words
from pipeline.text.decisions import Decision

RARE = 0.1
"""Of an even share of the rows: a class with fewer is rare."""
LEAST_WRONG = 0.5
"""A row is removed only where its label is more probably wrong than right."""
LEAST_EXPLAINED = 0.1
"""Of the loss without looking at the features: judges that explain less remove nothing."""


@dataclass(frozen=True)
class RareClass:
    """rows: with this given label; flagged: of them; expected: as many as its size alone would give."""

    label: int
    rows: int
    flagged: int
    expected: float


def rare_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """bool `[classes]`: there are rows of it, but less than RARE of an even share."""
    counts = np.bincount(labels, minlength=classes)
    return (counts > 0) & (counts < RARE * len(labels) / max(1, (counts > 0).sum()))


def held_back(decision: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The decisions with removals and relabellings of protected rows (bool `[rows]`) put to review."""
    changed = np.isin(decision, (Decision.REMOVE, Decision.RELABEL)) & protected
    return np.where(changed, Decision.REVIEW, decision).astype(decision.dtype)


def flags_of_rare(decision: np.ndarray, labels: np.ndarray, classes: int) -> list[RareClass]:
    """The rare classes that have flagged rows, those that stand out most first."""
    flagged = decision != Decision.KEEP
    share = flagged.mean()
    found = []
    for label in np.flatnonzero(rare_classes(labels, classes)):
        of_class = labels == label
        number = int((flagged & of_class).sum())
        if number:
            rows = int(of_class.sum())
            found.append(RareClass(int(label), rows, number, float(rows * share)))
    return sorted(found, key=lambda each: each.expected - each.flagged)


def rare_note(found: list[RareClass], classes: list[Any], rows: int) -> str | None:
    """What is said of the rare class that stands out most."""
    if not found:
        return None
    first = found[0]
    return (
        f"Class {words.label(classes[first.label])} is rare ({words.count(first.rows)} of {words.rows(rows)}) and has "
        f"{words.count(first.flagged)} flagged rows, where its size alone would give {first.expected:.1f}: rare rows "
        "look like wrong labels, so none of a rare class is removed without a person's word."
    )
