"""What can be decided about a row, and who decided it."""

from __future__ import annotations

from enum import IntEnum


class Decision(IntEnum):
    """A decision. Arrays hold its number, files and pages its word.

    The order is the one in which pages count decisions.
    """

    KEEP = 0
    REVIEW = 1
    REMOVE = 2
    RELABEL = 3

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Decision:
        return cls[word.upper()]


DECISIONS = tuple(decision.word for decision in Decision)
"""The words, each at the place of its number."""
FLAGGED = tuple(decision.word for decision in Decision if decision is not Decision.KEEP)
CHANGED = (Decision.REMOVE.word, Decision.RELABEL.word)
"""Decisions that change the data."""


class Decider(IntEnum):
    """Who set a row's decision; nobody where a row is plainly kept."""

    NOBODY = 0
    RULE = 1
    PERSON = 2
    HISTORY = 3

    @property
    def word(self) -> str | None:
        return None if self is Decider.NOBODY else self.name.lower()


DECIDERS = tuple(decider.word for decider in Decider)
"""The words, each at the place of its number."""

ANSWERS_RIGHT = (Decision.KEEP.word, "right")
ANSWERS_WRONG = (*CHANGED, "wrong")
UNSURE = "unsure"
ANSWERS = (*ANSWERS_RIGHT, *ANSWERS_WRONG, UNSURE)
"""What people can write about a row: that its label is right, wrong, or hard to tell."""
