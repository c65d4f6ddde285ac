"""Exceptions of the attribution library; all are ``ValueError`` and carry a hint that says what to do."""

from __future__ import annotations


class AttributionError(ValueError):
    """Something given to the attribution library can't be used.

    ``message`` says what is wrong in one sentence, ``hint`` what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class NonFiniteError(AttributionError):
    """A factor, spectrum, loss or score has a NaN or an infinity; the message names the layer or row."""


class CheckpointError(AttributionError):
    """A checkpoint or trajectory is missing, damaged, or doesn't fit the model."""


class OptimizerError(AttributionError):
    """The optimizer isn't one that the trajectory formulas here cover."""
