"""Decisions and estimated shares of wrong labels for the values of columns that say where rows come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.detection.intervals import wilson
from pipeline.report.breakdown import MOST_LINES, count_values, with_values
from pipeline.text import words
from pipeline.text.decisions import DECISIONS, FLAGGED

MOST_VALUES = 200
"""summary.json has at most so many values of a column, those with the most rows; the page shows MOST_LINES."""
SHARD = "shard"


def decisions_by_group(
    rows: pa.Table, column: str, sources: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Count the decisions for each value of a column of the source files.

    Shards that can't be read any more are skipped.

    Args:
        rows: with the columns shard, row and decision.
        column: of the source files.
        sources: lines of the summary's `sources` (docs/reference/run-directory.md).

    Returns:
        A line for each value: value, rows, review, remove, relabel, shares (of the three decisions, each with its 95 %
        score interval), source (the value's line of `sources`, or None). Values that `sources` names come first, then
        those with the most rows.
    """
    counts: dict[str, Counter[Any]] = {decision: Counter() for decision in DECISIONS}
    for audited, of_rows in with_values(rows, column):
        for decision in DECISIONS:
            chosen = pc.equal(audited["decision"], decision).combine_chunks()
            counts[decision].update(count_values(of_rows.filter(chosen)))
    total = sum(counts.values(), Counter())
    found = {entry["value"]: entry for entry in sources if entry["column"] == column}
    lines = []
    for value, _ in total.most_common(MOST_VALUES):
        text = "none" if value is None else str(value)
        of_value = {name: counts[name][value] for name in DECISIONS}
        lines.append(line(value, of_value) | {"source": found.get(text)})
    return sorted(lines, key=lambda entry: not (entry["source"] or {}).get("named"))


def line(value: Any, of_decision: dict[str, int]) -> dict[str, Any]:
    number = sum(of_decision.values())
    changed = {name: of_decision[name] for name in FLAGGED}
    shares = {name: wilson(count, number) for name, count in changed.items()}
    return {"value": words.label(value), "rows": number, **changed, "shares": shares}


def _group_lines(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of one column's table, with the shares as text."""
    return [
        entry
        | {"said": {name: interval(share) for name, share in entry["shares"].items()}}
        | _source_said(entry["source"])
        for entry in group["values"][:MOST_LINES]
    ]


def group_tables(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table for each column: column, lines, and whether there are more lines, estimated shares and effects."""
    tables = []
    for group in groups:
        lines = _group_lines(group)
        tables.append(
            {
                "column": words.label(group["column"]),
                "lines": lines,
                "more": len(group["values"]) > len(lines),
                "estimated": any(entry["wrong"] for entry in lines),
                "effects": any(entry["effect"] for entry in lines),
            }
        )
    return tables


def _source_said(source: dict[str, Any] | None) -> dict[str, Any]:
    """Whether a source is `named`, its share of `wrong` labels and the `effect` of leaving it out, as text."""
    if source is None:
        return {"named": False, "wrong": "", "effect": ""}
    share = source["wrong_share"]
    return {
        "named": source["named"],
        "wrong": "" if share is None else interval(share),
        "effect": _effect_said(source),
    }


def _effect_said(source: dict[str, Any]) -> str:
    """`−0.012 forecast, −0.009 measured`: the change of the validation loss without the source."""
    forecast, measured = source.get("forecast"), (source.get("measured") or {}).get("validation_loss")
    parts = [(forecast, "forecast"), (measured, "measured")]
    return ", ".join(f"{words.signed(value, 3)} {how}" for value, how in parts if value is not None)


def sources_lines(sources: Sequence[dict[str, Any]]) -> list[str]:
    """The worst declared source in a sentence, if one is named, and the first other column that errors depend on."""
    declared = [source for source in sources if source["named"] and source["declared"]]
    others = [source for source in sources if source["named"] and not source["declared"]]
    lines = []
    if declared:
        # Where a shard and another column are both named, the shard only stands for that column's value.
        worst = max(declared, key=lambda source: (source["column"] != SHARD, _excess(source)))
        more = sum(source["column"] == worst["column"] for source in declared) - 1
        also = f"; {more} more of its values stand out" if more else ""
        lines.append(f"{_source_sentence(worst)}{also}")
    lines += [
        f"wrong labels depend on {words.label(source['column'])} = {words.label(source['value'])}: "
        f"{_share_said(source)}"
        for source in others[:1]
    ]
    return lines


def _excess(source: dict[str, Any]) -> float:
    """How bad a source is: its share of wrong labels minus that of other rows, or else its share of flagged rows."""
    share = source["wrong_share"]
    return share["value"] - source["others_share"] if share else source["flagged_share"]["value"]


def _source_sentence(source: dict[str, Any]) -> str:
    """`vendor Dialwell: 31 % of its labels wrong (27 – 35), others 8 %`, and the effect of leaving it out."""
    line = f"{words.label(source['column'])} {words.label(source['value'])}: {_share_said(source)}"
    effect = _effect_said(source)
    return line + (f"; without it the validation loss changes by {effect}" if effect else "")


def _share_said(source: dict[str, Any]) -> str:
    share = source["wrong_share"]
    if share is None:
        flagged = source["flagged_share"]
        return f"its labels are contradicted more often than the others’; {interval(flagged)} of its rows are flagged"
    value, low, high = (f"{100 * share[end]:.0f}" for end in ("value", "low", "high"))
    return f"{value} % of its labels wrong ({low} – {high}), others {100 * source['others_share']:.0f} %"


def interval(share: dict[str, float]) -> str:
    """`5.8 % (4.1 – 8.0)`."""
    return f"{words.percent(share['value'])} ({100 * share['low']:.1f} – {100 * share['high']:.1f})"
