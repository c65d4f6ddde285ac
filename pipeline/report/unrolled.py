"""Says in words how well the scores agree with exact differentiation through the training."""

from __future__ import annotations

from typing import Any

from pipeline.text import words


def unrolled_line(found: dict[str, Any] | None) -> str:
    """`exact differentiation: rank correlation with the scores 0.62 (0.55 – 0.69)`; empty if it was not computed."""
    if found is None:
        return ""
    if found["chaotic"]:
        return f"exact differentiation: training is chaotic, derivatives grow {_grown(found)}"
    line = f"exact differentiation: rank correlation with the scores {words.interval(found['correlation'])}"
    return line if found.get("trusted", True) else f"{line}; not to be trusted, retrainings contradict it"


def unrolled_sentence(found: dict[str, Any] | None) -> str:
    """The sentence of the page; empty if exact differentiation was not computed."""
    if found is None:
        return ""
    limit = f"{found['limit']:g}"
    if found["chaotic"]:
        return (
            f"Training was chaotic: going back through it derivatives grow {_grown(found)}, over the limit of {limit}, "
            "so that exact differentiation predicts nothing and says nothing about the scores; a lower learning rate, "
            "or one that falls to 0 (training.schedule), makes training smoother."
        )
    return (
        f"The rows’ harm to the validation loss has a rank correlation of {words.interval(found['correlation'])} with "
        f"exact differentiation through the repeated training (in brackets the 95 % interval over rows; going back "
        f"through it derivatives grow {_grown(found)}; beyond {limit} they predict nothing).{_judged(found)}"
    )


def _judged(found: dict[str, Any]) -> str:
    """What the groups of fidelity say of the exact derivative; empty if fidelity was not measured."""
    if "trusted" not in found:
        return " Whether the exact derivative predicts retrainings was not measured (verification.fidelity)."
    said = (
        f" The changes that it predicts for the groups of fidelity correlate with the measured ones with r = "
        f"{words.interval(found['fidelity'])}, which is {words.signed(found['ahead']['value'], 2)} against the scores "
        f"({words.signed(found['ahead']['low'], 2)} … {words.signed(found['ahead']['high'], 2)})"
    )
    if found["same_order"] is not None:
        said += f", and with those in the same order with r = {words.interval(found['same_order'])}"
    if found["trusted"]:
        return f"{said}."
    return (
        f"{said}. So the exact derivative is not to be trusted here, small as its growth is: it is that of one "
        "training, and its correlation with the scores says nothing against them."
    )


def _grown(found: dict[str, Any]) -> str:
    growth = found["growth"]
    return "without bound" if growth is None else f"to {words.number(growth)} times their size"
