"""The report's table of confused labels: pairs of given and suggested labels."""

from __future__ import annotations

from typing import Any

from pipeline.text import words


def pair_lines(pairs: list[dict[str, Any]], names: dict[Any, str]) -> list[dict[str, str]]:
    """The lines of the table; `pairs` is the value in report/summary.json, `names` maps a label to its name."""
    return [
        {
            "given": words.label(pair["given"], names),
            "suggested": words.label(pair["suggested"], names),
            "rows": words.count(pair["rows"]),
            "estimated": words.count(round(pair["estimated"])),
            "interval": f"{words.count(round(pair['low']))} – {words.count(round(pair['high']))}",
            "flagged": words.count(pair["flagged"]),
        }
        for pair in pairs
    ]
