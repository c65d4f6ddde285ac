"""The arms of verification: their names in files, and what they are called on pages; `arms` explains them."""

from __future__ import annotations

AS_GIVEN, REMOVED, RELABELLED, MIXED = "as_given", "removed", "relabelled", "mixed"
RANDOM_OF = "random_of_"
"""The name of an arm's control is this prefix and the name of the arm."""
ARMS = {
    AS_GIVEN: "as given",
    "cleaned": "cleaned",
    "random_removal": "random control",
    REMOVED: "removed",
    RELABELLED: "relabelled",
    MIXED: "removed and relabelled",
}
