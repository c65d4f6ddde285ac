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
    """`label` names what a long bar means; `words` say what was measured, in `unit`."""

    label: str
    words: str
    unit: str
    high_is_suspicious: bool


SIGNALS = {
    "margin_early": Signal(
        "prefers other label",
        "how far the given label is ahead of the best other one, in the early epochs",
        "logits",
        False,
    ),
    "loss_early": Signal("hard to learn", "mean loss on the given label in the early epochs", "nats", True),
    "early_harm": Signal(
        "harms validation",
        "how much the validation loss is predicted to fall without this row (SOURCE, early epochs)",
        "nats",
        True,
    ),
    "neighbour_margin": Signal(
        "neighbours differ",
        "votes of the most similar rows for the given label, less those for the best other one",
        "share of votes",
        False,
    ),
    "half_confidence": Signal(
        "hard to predict",
        "probability of the given label for a model that was trained without this row",
        "probability",
        False,
    ),
    "self_influence": Signal(
        "memorised", "predicted rise of the row's own loss if it is removed (SOURCE)", "nats", True
    ),
}

REASONS = {
    "mislabelled": (
        "Probably wrong label",
        "Several signals agree that the given label does not fit the row.",
    ),
    "harmful": (
        "Harmful",
        "Attribution predicts that the validation loss is lower without these rows.",
    ),
    "duplicate-conflict": (
        "Same content, different labels",
        "The same content occurs more than once with labels that contradict each other.",
    ),
    "outlier": ("Unlike everything else", "Rows that resemble no class: do they belong here at all?"),
    "backdoor": (
        "Suspected backdoor",
        "Rows that carry a pattern which by itself makes the model predict their label.",
    ),
}


def signal(name: str) -> Signal:
    """The vocabulary's entry, or one made of the column's own name (then high is taken as suspicious)."""
    plain = name.replace("_", " ")
    return SIGNALS.get(name, Signal(plain, plain, "", True))


def reason(code: str) -> tuple[str, str]:
    """Title and explanation of a reason code."""
    return REASONS.get(code, (code.replace("-", " ").capitalize(), ""))
