"""Compares two finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.text.decisions import CHANGED, Decision


def compare_runs(one: str | Path, other: str | Path) -> dict[str, Any]:
    """Compare what two finished runs found.

    Returns:
        `runs`: both paths. `values`: name → [value of the first run, value of the second run]; shares and metrics are
        fractions of 1. `flags`: how many rows with a decision other than keep `both` runs have, and `first_only` and
        `second_only`; rows are matched by `row_key`.

    Raises:
        InputError: one of the runs is not finished, or their tasks differ.
    """
    from pipeline.results.result import AuditResult

    results = [AuditResult(path) for path in (one, other)]
    tasks = [result.summary["task"] for result in results]
    if tasks[0] != tasks[1]:
        raise InputError(
            f"{one} is a {tasks[0]} and {other} a {tasks[1]}: nothing to compare",
            "Compare runs of one dataset.",
        )
    values = [_compared_values(result.summary) for result in results]
    first, second = (result.flagged["row_key"] for result in results)
    both = pc.sum(pc.is_in(first, second)).as_py() or 0
    return {
        "runs": [str(one), str(other)],
        "values": {name: [each.get(name) for each in values] for name in values[0] | values[1]},
        "flags": {"both": both, "first_only": len(first) - both, "second_only": len(second) - both},
    }


def _compared_values(summary: dict[str, Any]) -> dict[str, Any]:
    noise, metric = summary["estimated_noise"], summary["metric"]
    found = {
        "verdict": summary["verdict"],
        "rows audited": summary["rows_audited"],
        **{f"to {decision}": summary["decisions"][decision] for decision in (*CHANGED, Decision.REVIEW.word)},
        "estimated noise": noise["value"] if noise else None,
    }
    for arm, label in (("as_given", "as given"), ("cleaned", "cleaned")):
        if arm in summary["arms"]:
            found[f"holdout {metric} {label}"] = summary["arms"][arm]["metric"]
    if "cleaned - as_given" in summary["differences"]:
        found[f"change of {metric}"] = summary["differences"]["cleaned - as_given"]["metric"]["mean"]
    return found
