"""The decisions about rows, and who can make them."""

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
"""The words of the decisions, each at the place of its number."""
FLAGGED = tuple(decision.word for decision in Decision if decision is not Decision.KEEP)
CHANGED = (Decision.REMOVE.word, Decision.RELABEL.word)
"""Decisions that change the data."""


class Decider(IntEnum):
    """Who made the decision about a row; NOBODY for a row that is kept without any decision."""

    NOBODY = 0
    RULE = 1
    PERSON = 2
    HISTORY = 3

    @property
    def word(self) -> str | None:
        return None if self is Decider.NOBODY else self.name.lower()


BY_PEOPLE = (Decider.PERSON.word, Decider.HISTORY.word)
"""The deciders whose word takes precedence over rules, caps and gates; HISTORY is a verdict of an earlier audit."""
DECIDERS = tuple(decider.word for decider in Decider)
"""The words of the deciders, each at the place of its number."""

ANSWERS_RIGHT = (Decision.KEEP.word, "right")
ANSWERS_WRONG = (*CHANGED, "wrong")
UNSURE = "unsure"
ANSWERS = (*ANSWERS_RIGHT, *ANSWERS_WRONG, UNSURE)
"""The words that people can write about a row: its label is right, is wrong, or is hard to judge."""
