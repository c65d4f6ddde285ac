"""Two finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import InputError
from pipeline.text.decisions import CHANGED, Decision


def compare_runs(one: str | Path, other: str | Path) -> dict[str, Any]:
    """What two finished runs found, side by side.

    Returns `{"runs": [path, path], "values": {name: [value, value]}, "flags": {"both", "first_only",
    "second_only"}}`; flags are rows with a decision other than keep, matched by row_key. Shares and metrics
    are in 0..1.

    Raises InputError when one of them is not a finished run, and when they have different tasks.
    """
    from pipeline.results.result import AuditResult

    results = [AuditResult(path) for path in (one, other)]
    tasks = [result.summary["task"] for result in results]
    if tasks[0] != tasks[1]:
        raise InputError(
            f"{one} is a {tasks[0]} and {other} a {tasks[1]}: nothing to compare",
            "Compare runs of one dataset.",
        )
    values = [compared_values(result.summary) for result in results]
    first, second = (result.flagged["row_key"] for result in results)
    both = pc.sum(pc.is_in(first, second)).as_py() or 0
    return {
        "runs": [str(one), str(other)],
        "values": {name: [each.get(name) for each in values] for name in values[0] | values[1]},
        "flags": {"both": both, "first_only": len(first) - both, "second_only": len(second) - both},
    }


def compared_values(summary: dict[str, Any]) -> dict[str, Any]:
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
