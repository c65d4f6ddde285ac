"""Decisions by the values of a column of the source, such as one that fairness asks about."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.detection.intervals import wilson
from pipeline.report import words
from pipeline.report.breakdown import MOST_LINES, count_values, with_values
from pipeline.report.vocabulary import DECISIONS

MOST_VALUES = 200
"""Values that summary.json has; those with the most rows. The page shows MOST_LINES of them."""


def decisions_by_group(rows: pa.Table, column: str) -> list[dict[str, Any]]:
    """A line per value of `column`, the most rows first; `rows`: shard, row, decision.

    `{"value", "rows", "review", "remove", "relabel", "shares": {"review", "remove", "relabel"}}`, each share with its
    95 % score interval. Shards that can't be read any more are passed over.
    """
    counts: dict[str, Counter[Any]] = {decision: Counter() for decision in DECISIONS}
    for audited, of_rows in with_values(rows, column):
        for decision in DECISIONS:
            chosen = pc.equal(audited["decision"], decision).combine_chunks()
            counts[decision].update(count_values(of_rows.filter(chosen)))
    total = sum(counts.values(), Counter())
    return [
        line(value, {name: counts[name][value] for name in DECISIONS})
        for value, _ in total.most_common(MOST_VALUES)
    ]


def line(value: Any, of_decision: dict[str, int]) -> dict[str, Any]:
    number = sum(of_decision.values())
    changed = {name: of_decision[name] for name in DECISIONS if name != "keep"}
    shares = {name: wilson(count, number) for name, count in changed.items()}
    return {"value": words.label(value), "rows": number, **changed, "shares": shares}


def group_lines(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the page, with the shares as people write them."""
    return [
        entry | {"said": {name: interval(share) for name, share in entry["shares"].items()}}
        for entry in groups["values"][:MOST_LINES]
    ]


def interval(share: dict[str, float]) -> str:
    """`5.8 % (4.1 – 8.0)`."""
    return f"{words.percent(share['value'])} ({100 * share['low']:.1f} – {100 * share['high']:.1f})"
