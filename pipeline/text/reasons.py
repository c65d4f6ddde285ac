"""Why a row can be flagged: the reasons in one ordered list, each with its code and its words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A reason. code: in files; title, explanation: on pages."""

    code: str
    title: str
    explanation: str = ""


BACKDOOR = Reason(
    "backdoor",
    "Suspected backdoor",
    "Rows that carry a pattern which by itself makes the model predict their label.",
)
CORRUPTED = Reason(
    "corrupted",
    "Broken content",
    "An empty or cut-off picture, a number that can’t be right, or a text that says nothing, whatever the label.",
)
DUPLICATE_CONFLICT = Reason(
    "duplicate-conflict",
    "Same content, different labels",
    "The same content occurs more than once with labels that contradict each other.",
)
OUTLIER = Reason(
    "outlier",
    "Unlike everything else",
    "Rows that resemble no class, and no other label explains them: do they belong here at all?",
)
MISLABELLED = Reason(
    "mislabelled",
    "Probably wrong label",
    "Models that never saw the row prefer another label.",
)
SPURIOUS = Reason(
    "spurious",
    "Right for the wrong reason",
    "Train ties their slice to their label, validation doesn’t. By attribution they help rows of their class in "
    "their slice and harm that slice’s other classes: the model learns from them that the slice means the label.",
)
AMBIGUOUS = Reason(
    "ambiguous",
    "Two labels are plausible",
    "Models that never saw the row find two labels nearly as probable as each other.",
)
HARMFUL = Reason(
    "harmful",
    "Harmful",
    "Attribution predicts that the validation loss is lower without these rows.",
)
REVIEWED = Reason(
    "reviewed",
    "Called wrong by a person",
    "Somebody has looked at the row and said that its label is wrong.",
)
SUSPICIOUS = Reason(
    "suspicious",
    "Odd as a whole",
    "Nothing above holds, but all signals together rank the row high.",
)

REASONS = (
    BACKDOOR,
    CORRUPTED,
    DUPLICATE_CONFLICT,
    OUTLIER,
    MISLABELLED,
    SPURIOUS,
    AMBIGUOUS,
    HARMFUL,
    REVIEWED,
    SUSPICIOUS,
)
"""The most telling first: the order in which a row names its reasons and pages show them."""

_PLACES = {reason.code: place for place, reason in enumerate(REASONS)}


def reason_of(code: str) -> Reason:
    """The reason of a code; one that is made of the code alone where a file has another."""
    place = _PLACES.get(code)
    return Reason(code, code.replace("-", " ").capitalize()) if place is None else REASONS[place]


def precedence(code: str) -> tuple[int, str]:
    """Sorts codes as REASONS orders them; unknown ones come last, by their name."""
    return (_PLACES.get(code, len(REASONS)), code)
