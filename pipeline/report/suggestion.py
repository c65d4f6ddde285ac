"""Shows the label that is suggested for a row, with its probability, if the suggestion is likely enough."""

from __future__ import annotations

from typing import Any

from pipeline.text import words
from pipeline.text.reasons import MISLABELLED

LEAST = 0.1
"""A suggestion with a lower probability is not shown: the row is odd, but not because it lacks this label."""
NONE_LIKELY = "no likely other label"


def is_likely(row: dict[str, Any]) -> bool:
    """Whether the suggestion in a row of rows.parquet is shown.

    It is also shown if its probability is unknown, and if the row has the reason `mislabelled`.
    """
    probability = row.get("suggested_probability")
    called = MISLABELLED.code in (row.get("reasons") or [])
    return row["suggested_label"] is not None and (called or probability is None or probability >= LEAST)


def suggestion(row: dict[str, Any], names: dict[Any, str] | None = None) -> str:
    """`7 (83 %)`, or NONE_LIKELY for an unlikely suggestion, or empty without a suggestion."""
    if row["suggested_label"] is None:
        return ""
    if not is_likely(row):
        return NONE_LIKELY
    probability = row.get("suggested_probability")
    said = words.label(row["suggested_label"], names)
    return said if probability is None else f"{said} ({words.percent(probability, 0)})"
