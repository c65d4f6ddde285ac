"""The names and explanations of signals, reasons, arms and decisions in a report."""

from __future__ import annotations

from dataclasses import dataclass

DECISIONS = ("keep", "review", "remove", "relabel")

ARMS = {
    "as_given": "as given",
    "cleaned": "cleaned",
    "random_removal": "random control",
    "removed": "removed",
    "relabelled": "relabelled",
    "mixed": "removed and relabelled",
}


@dataclass(frozen=True)
class Signal:
    """A signal in a report; `label` says what a high suspicion by this signal means."""

    label: str
    high_is_suspicious: bool


SIGNALS = {
    "panel_wrong": Signal("label improbable", True),
    "panel_residual": Signal("far from predictions", True),
    "panel_linear": Signal("linear model differs", False),
    "panel_naive_bayes": Signal("naive Bayes differs", False),
    "panel_boosting": Signal("boosting differs", False),
    "panel_extra_trees": Signal("random trees differ", False),
    "panel_neighbours": Signal("neighbours differ (panel)", False),
    "early_margin": Signal("prefers other label", False),
    "early_loss": Signal("hard to learn", True),
    "early_harm": Signal("harms validation", True),
    "neighbour_margin": Signal("neighbours differ", False),
    "clean_neighbours": Signal("clean neighbours differ", False),
    "half_confidence": Signal("hard to predict", False),
    "final_loss": Signal("badly fitted", True),
    "forgetting": Signal("forgotten", True),
    "self_influence": Signal("memorised", True),
    "validation_harm": Signal("harms validation, whole run", True),
    "worst_group_harm": Signal("harms a class or slice", True),
    "gradient_norm": Signal("pulls at the last layer", True),
    "representation_outlier": Signal("unlike its class", True),
    "near_duplicate": Signal("near copies differ", True),
}

REASONS = {
    "backdoor": (
        "Suspected backdoor",
        "Rows that carry a pattern which by itself makes the model predict their label.",
    ),
    "corrupted": (
        "Broken content",
        "An empty or cut-off picture, a number that can’t be right, or a text that says nothing, whatever the label.",
    ),
    "duplicate-conflict": (
        "Same content, different labels",
        "The same content occurs more than once with labels that contradict each other.",
    ),
    "outlier": (
        "Unlike everything else",
        "Rows that resemble no class, and no other label explains them: do they belong here at all?",
    ),
    "mislabelled": (
        "Probably wrong label",
        "Models that never saw the row prefer another label.",
    ),
    "spurious": (
        "Right for the wrong reason",
        "Train ties their slice to their label, validation doesn’t. By attribution they help rows of their class in "
        "their slice and harm that slice’s other classes: the model learns from them that the slice means the label.",
    ),
    "ambiguous": (
        "Two labels are plausible",
        "Models that never saw the row find two labels nearly as probable as each other.",
    ),
    "harmful": (
        "Harmful",
        "Attribution predicts that the validation loss is lower without these rows.",
    ),
    "reviewed": (
        "Called wrong by a person",
        "Somebody has looked at the row and said that its label is wrong.",
    ),
    "suspicious": (
        "Odd as a whole",
        "Nothing above holds, but all signals together rank the row high.",
    ),
}


def signal(name: str) -> Signal:
    """The entry of a signal; an unknown column is called by its name, and its high values count as suspicious."""
    return SIGNALS.get(name, Signal(name.replace("_", " "), True))


def precedence(code: str) -> tuple[int, str]:
    """The sort key of a reason: the order of REASONS, most informative first; unknown reasons come last."""
    known = list(REASONS)
    return (known.index(code) if code in known else len(known), code)


def reason(code: str) -> tuple[str, str]:
    """Title and explanation of a reason code."""
    return REASONS.get(code, (code.replace("-", " ").capitalize(), ""))
