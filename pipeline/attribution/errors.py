"""The exceptions of the attribution library. Each is a ``ValueError`` with a hint that says what to do."""

from __future__ import annotations


class AttributionError(ValueError):
    """The attribution library can't use something that it was given.

    Attributes:
        message: one sentence that says what is wrong.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class NonFiniteError(AttributionError):
    """A factor, spectrum, loss or score has a NaN or an infinity. The message names the layer or the row."""


class CheckpointError(AttributionError):
    """A checkpoint or trajectory is missing, damaged, or doesn't fit the model."""


class OptimizerError(AttributionError):
    """The formulas of this library don't cover the optimizer."""
