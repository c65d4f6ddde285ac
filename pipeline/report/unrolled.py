"""How well the scores agree with exact differentiation through the training, in a sentence."""

from __future__ import annotations

from typing import Any

from pipeline.report import words
from pipeline.report.fidelity import interval


def unrolled_sentence(found: dict[str, Any] | None) -> str:
    """Empty where it was not computed."""
    if found is None:
        return ""
    limit = f"{found['limit']:g}"
    reached = None if found["growth"] is None else f"{words.number(found['growth'])} times their size"
    if found["chaotic"]:
        grow = "without bound" if reached is None else f"to {reached}"
        return (
            f"Training was chaotic: going back through it derivatives grow {grow}, over the limit of {limit}, so that "
            "exact differentiation predicts nothing and says nothing about the scores; a lower learning rate, or one "
            "that falls to 0 (training.schedule), makes training smoother."
        )
    return (
        f"The rows’ harm to the validation loss has a rank correlation of {interval(found['correlation'])} with exact "
        f"differentiation through the repeated training (in brackets the 95 % interval over rows; going back through "
        f"it derivatives reach {reached}; up to {limit} they predict)."
    )
