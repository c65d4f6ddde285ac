"""The reasons for which rows are flagged, in one ordered list, with their codes and texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A reason: its code in files, and its title and explanation on pages."""

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
    "A picture that is empty, cut off or can’t be read, a number that can’t be right, or a text that says nothing, "
    "whatever the label.",
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
"""The most informative reason comes first; rows list their reasons in this order, and pages show them in it."""

_PLACES = {reason.code: place for place, reason in enumerate(REASONS)}


def reason_of(code: str) -> Reason:
    """The reason with a code; for an unknown code in a file, a reason that is made from the code alone."""
    place = _PLACES.get(code)
    return Reason(code, code.replace("-", " ").capitalize()) if place is None else REASONS[place]


def precedence(code: str) -> tuple[int, str]:
    """The sort key of a code: the order of REASONS; unknown codes come last, by name."""
    return (_PLACES.get(code, len(REASONS)), code)
