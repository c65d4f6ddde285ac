"""What is wrong with single rows of a column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fault:
    """Places in a column with one kind of trouble; `what` describes the first, `hint` says what to do.

    `unreadable`: there is nothing to learn from, and no other value is doubted: the rows can be set aside.
    """

    places: np.ndarray  # int64, ascending, at least one
    what: str
    hint: str
    unreadable: bool = False


def fault_where(mask: np.ndarray, what: str, hint: str, unreadable: bool = False) -> list[Fault]:
    """One fault for the places where `mask` is true, or none."""
    places = np.flatnonzero(mask)
    return [Fault(places, what, hint, unreadable)] if len(places) else []
