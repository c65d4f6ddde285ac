"""Decisions and estimated wrong labels by the values of columns that say where rows come from."""

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
"""Values that summary.json has; those with the most rows. The page shows MOST_LINES of them."""
SHARD = "shard"


def decisions_by_group(
    rows: pa.Table, column: str, sources: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """A line per value of `column`: those that `sources` names first, then the most rows; `rows`: shard, row, decision.

    `{"value", "rows", "review", "remove", "relabel", "shares": {"review", "remove", "relabel"}, "source"}`, each share
    with its 95 % score interval; `source` is the value's line of `sources` (docs/reference/run-directory.md), or None.
    Shards that can't be read any more are passed over.
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


def group_lines(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the page of one column, with the shares as people write them."""
    return [
        entry
        | {"said": {name: interval(share) for name, share in entry["shares"].items()}}
        | source_said(entry["source"])
        for entry in group["values"][:MOST_LINES]
    ]


def group_tables(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table of the page for each column: `{"column", "lines", "more", "estimated"}`."""
    tables = []
    for group in groups:
        lines = group_lines(group)
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


def source_said(source: dict[str, Any] | None) -> dict[str, Any]:
    """`named`, and in words `wrong`, the share of wrong labels, and `effect`, of the rows' absence; else nothing."""
    if source is None:
        return {"named": False, "wrong": "", "effect": ""}
    share = source["wrong_share"]
    return {
        "named": source["named"],
        "wrong": "" if share is None else interval(share),
        "effect": effect_said(source),
    }


def effect_said(source: dict[str, Any]) -> str:
    """`−0.012 forecast, −0.009 measured`: the change of the validation loss without the source."""
    forecast, measured = source.get("forecast"), (source.get("measured") or {}).get("validation_loss")
    parts = [(forecast, "forecast"), (measured, "measured")]
    return ", ".join(f"{words.signed(value, 3)} {how}" for value, how in parts if value is not None)


def sources_lines(sources: Sequence[dict[str, Any]]) -> list[str]:
    """The worst source in a sentence; where none is named, nothing. Then columns that errors depend on."""
    declared = [source for source in sources if source["named"] and source["declared"]]
    others = [source for source in sources if source["named"] and not source["declared"]]
    lines = []
    if declared:
        # A shard stands for a vendor where both are named.
        worst = max(declared, key=lambda source: (source["column"] != SHARD, excess(source)))
        more = sum(source["column"] == worst["column"] for source in declared) - 1
        also = f"; {more} more of its values stand out" if more else ""
        lines.append(f"{source_sentence(worst)}{also}")
    lines += [
        f"wrong labels depend on {words.label(source['column'])} = {words.label(source['value'])}: "
        f"{share_said(source)}"
        for source in others[:1]
    ]
    return lines


def excess(source: dict[str, Any]) -> float:
    """By which the worst is found: wrong labels beyond the others', else flags."""
    share = source["wrong_share"]
    return share["value"] - source["others_share"] if share else source["flagged_share"]["value"]


def source_sentence(source: dict[str, Any]) -> str:
    """`vendor Dialwell: 31 % of its labels wrong (27 – 35), others 8 %`, and what leaving it out does."""
    line = f"{words.label(source['column'])} {words.label(source['value'])}: {share_said(source)}"
    effect = effect_said(source)
    return line + (f"; without it the validation loss changes by {effect}" if effect else "")


def share_said(source: dict[str, Any]) -> str:
    share = source["wrong_share"]
    if share is None:
        flagged = source["flagged_share"]
        return f"its labels are contradicted more often than the others’; {interval(flagged)} of its rows are flagged"
    value, low, high = (f"{100 * share[end]:.0f}" for end in ("value", "low", "high"))
    return f"{value} % of its labels wrong ({low} – {high}), others {100 * source['others_share']:.0f} %"


def interval(share: dict[str, float]) -> str:
    """`5.8 % (4.1 – 8.0)`."""
    return f"{words.percent(share['value'])} ({100 * share['low']:.1f} – {100 * share['high']:.1f})"
