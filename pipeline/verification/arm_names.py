"""The arms of verification by name: what is done with the rows that the rule proposes, as `arms` says in full."""

from __future__ import annotations

AS_GIVEN, REMOVED, RELABELLED, MIXED = "as_given", "removed", "relabelled", "mixed"
RANDOM_OF = "random_of_"
"""Begins the name of an arm's control."""
