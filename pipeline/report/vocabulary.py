"""What signals, reasons, arms and decisions are called in a report, and what each of them says."""

from __future__ import annotations

from dataclasses import dataclass

DECISIONS = ("keep", "review", "remove", "relabel")

ARMS = {
    "as_given": "as given",
    "cleaned": "cleaned",
    "random_removal": "random removal",
    "relabelled": "relabelled",
}


@dataclass(frozen=True)
class Signal:
    """`label` says what a long bar means."""

    label: str
    high_is_suspicious: bool


SIGNALS = {
    "early_margin": Signal("prefers other label", False),
    "early_loss": Signal("hard to learn", True),
    "early_harm": Signal("harms validation", True),
    "neighbour_margin": Signal("neighbours differ", False),
    "half_confidence": Signal("hard to predict", False),
}

REASONS = {
    "backdoor": (
        "Suspected backdoor",
        "Rows that carry a pattern which by itself makes the model predict their label.",
    ),
    "duplicate-conflict": (
        "Same content, different labels",
        "The same content occurs more than once with labels that contradict each other.",
    ),
    "mislabelled": (
        "Probably wrong label",
        "Several signals agree that the given label does not fit the row.",
    ),
    "harmful": (
        "Harmful",
        "Attribution predicts that the validation loss is lower without these rows.",
    ),
    "ambiguous": (
        "Odd as a whole",
        "No other label clearly fits better, but all signals together rank the row high.",
    ),
    "outlier": ("Unlike everything else", "Rows that resemble no class: do they belong here at all?"),
}


def signal(name: str) -> Signal:
    """The vocabulary's entry, or one made of the column's own name (then high is taken as suspicious)."""
    return SIGNALS.get(name, Signal(name.replace("_", " "), True))


def precedence(code: str) -> tuple[int, str]:
    """Reasons are shown in the order of REASONS, the most telling first; unknown ones come last."""
    known = list(REASONS)
    return (known.index(code) if code in known else len(known), code)


def reason(code: str) -> tuple[str, str]:
    """Title and explanation of a reason code."""
    return REASONS.get(code, (code.replace("-", " ").capitalize(), ""))
