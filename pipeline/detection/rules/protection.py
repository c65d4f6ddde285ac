"""Rows that are never removed by default, however suspicious they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.text import words
from pipeline.text.decisions import Decision

RARE = 0.1
"""A class is rare if it has fewer rows than this share of the mean class size."""
LEAST_WRONG = 0.5
"""A row is only removed if its label is wrong with at least this probability."""
LEAST_EXPLAINED = 0.1
"""Judges that explain a smaller share of the log loss remove nothing."""


@dataclass(frozen=True)
class RareClass:
    """A rare class.

    Attributes:
        label: the class.
        rows: how many rows have this label.
        flagged: how many of them are flagged.
        expected: how many of them would be flagged at the overall rate.
    """

    label: int
    rows: int
    flagged: int
    expected: float


def rare_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """The classes that have rows, but fewer than RARE times the mean class size, bool `[classes]`."""
    counts = np.bincount(labels, minlength=classes)
    return (counts > 0) & (counts < RARE * len(labels) / max(1, (counts > 0).sum()))


def held_back(decision: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The decisions, with review instead of removing or relabelling for protected rows (bool `[rows]`)."""
    changed = np.isin(decision, (Decision.REMOVE, Decision.RELABEL)) & protected
    return np.where(changed, Decision.REVIEW, decision).astype(decision.dtype)


def flags_of_rare(decision: np.ndarray, labels: np.ndarray, classes: int) -> list[RareClass]:
    """The rare classes with flagged rows; those with the largest excess over the expected number come first."""
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
    """A note about the rare class with the largest excess of flags; None without one."""
    if not found:
        return None
    first = found[0]
    return (
        f"Class {words.label(classes[first.label])} is rare ({words.count(first.rows)} of {words.rows(rows)}) and has "
        f"{words.count(first.flagged)} flagged rows, where its size alone would give {first.expected:.1f}: rare rows "
        "look like wrong labels, so none of a rare class is removed without a person's word."
    )
