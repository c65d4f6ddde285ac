"""The names of the arms of verification; `arms` explains them."""

from __future__ import annotations

AS_GIVEN, REMOVED, RELABELLED, MIXED = "as_given", "removed", "relabelled", "mixed"
RANDOM_OF = "random_of_"
"""The name of an arm's control is this prefix and the name of the arm."""
