"""The label that a row may have instead of its own: shown with its probability, and only where that is worth a look."""

from __future__ import annotations

from typing import Any

from pipeline.text import words
from pipeline.text.reasons import MISLABELLED

LEAST = 0.1
"""A less probable suggestion is not shown: the row is odd, but not because that one label is missing."""
NONE_LIKELY = "no likely other label"


def is_likely(row: dict[str, Any]) -> bool:
    """Whether the suggestion of a line of rows.parquet is to be shown.

    True where its probability is not known, and for a row that is called mislabelled because of it.
    """
    probability = row.get("suggested_probability")
    called = MISLABELLED.code in (row.get("reasons") or [])
    return row["suggested_label"] is not None and (called or probability is None or probability >= LEAST)


def suggestion(row: dict[str, Any], names: dict[Any, str] | None = None) -> str:
    """`7 (83 %)`, NONE_LIKELY, or nothing where no other label is suggested."""
    if row["suggested_label"] is None:
        return ""
    if not is_likely(row):
        return NONE_LIKELY
    probability = row.get("suggested_probability")
    said = words.label(row["suggested_label"], names)
    return said if probability is None else f"{said} ({words.percent(probability, 0)})"
