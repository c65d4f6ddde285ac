"""report/summary.json: the run in numbers, and the same in a few lines for a terminal."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from pipeline.config import load_config
from pipeline.report import words
from pipeline.report.breakdown import read_rows
from pipeline.report.fidelity import fidelity_line, low_fidelity
from pipeline.report.groups import decisions_by_group, sources_lines
from pipeline.report.method import attribution
from pipeline.report.unrolled import unrolled_line
from pipeline.report.verdict import Summary, levels, verdict
from pipeline.report.vocabulary import DECISIONS, precedence
from pipeline.run import RunDirectory, read_json


def summary(run: RunDirectory) -> Summary:
    """The content of report/summary.json, from a run directory whose detection and verification are done.

    Counts come from the columns `decision` and `reasons` of rows.parquet. Metrics are as in verification.json
    (shares in 0..1), loss changes and harms in nats, times in seconds.
    """
    record, verification = run.record, without_poor_forecasts(read_json(run / "verification.json"))
    stages = record["stages"]
    prepare, factors, detect = (facts(record, stage) for stage in ("prepare", "factors", "detect"))
    decisions, reasons = count_decisions(run)
    return {
        "run_id": run.run_id,
        "name": record.get("name", run.path.parent.name),
        "task": prepare.get("task", "classification"),
        "rows": prepare.get("rows", {}),
        "rows_audited": sum(decisions.values()),
        "decisions": decisions,
        "reasons": reasons,
        "estimated_noise": detect.get("estimated_noise"),
        "estimated_noise_note": detect.get("estimated_noise_note"),
        "confused_pairs": detect.get("confused_pairs") or [],
        "calibration": detect.get("calibration"),
        "warnings": detect.get("warnings") or [],
        "promise": detect.get("promise"),
        "canaries": detect.get("canaries"),
        "groups": groups(run, sources(detect, verification)),
        "sources": sources(detect, verification),
        "group_effects": verification.get("groups") or [],
        "backdoors": backdoors(detect.get("backdoors") or [], verification.get("backdoors") or []),
        "verdict": verification["verdict"],
        "note": verification.get("note"),
        "metric": verification.get("metric"),
        "higher_is_better": verification.get("higher_is_better", True),
        "arms": {name: arm_means(arm) for name, arm in (verification.get("arms") or {}).items()},
        "differences": verification.get("differences") or {},
        "predicted_loss_change": verification.get("predicted_loss_change"),
        "calibrated_by": verification.get("calibrated_by"),
        "measured_loss_change": verification.get("measured_loss_change"),
        "fidelity": verification.get("fidelity"),
        "unrolled": verification.get("unrolled"),
        "timings": {stage: entry.get("seconds") for stage, entry in stages.items()},
        "peak_memory_bytes": max(
            filter(None, (e.get("peak_memory_bytes") for e in stages.values())), default=None
        ),
        "coverage": factors.get("coverage"),
        "attribution": attribution(facts(record, "train"), factors, facts(record, "attribute")),
        "versions": record.get("versions", {}),
        "seeds": record.get("seeds", {}),
        "device": record.get("device"),
        "export": export_paths(run),
        "report": "report/index.html",
    }


def without_poor_forecasts(verification: dict[str, Any]) -> dict[str, Any]:
    """Without its forecasts where fidelity is low: scores that predict no retraining forecast nothing."""
    if not low_fidelity(verification.get("fidelity")):
        return verification
    nothing = {"predicted_loss_change": None}
    return (
        verification
        | nothing
        | {
            "groups": [each | nothing for each in verification.get("groups") or []],
            "sources": [each | {"forecast": None} for each in verification.get("sources") or []],
        }
    )


def backdoors(alarms: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was found and proved, and the trigger's success on the holdout before and after cleaning if measured."""
    said = ("target", "kind", "description", "rows", "flip_rate", "purity", "content")
    successes = [{name: found[name] for name in ("before", "after")} for found in measured]
    return [
        {name: alarm[name] for name in said} | success
        for alarm, success in zip(alarms, successes or [{"before": None, "after": None}] * len(alarms))
    ]


def facts(record: dict[str, Any], stage: str) -> dict[str, Any]:
    """A stage's facts, empty where the stage has not run."""
    return record["stages"].get(stage, {}).get("facts") or {}


def count_decisions(run: RunDirectory) -> tuple[dict[str, int], dict[str, int]]:
    """Rows per decision, and flagged rows (any decision but keep) per reason, the most frequent first."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for batch in pq.ParquetFile(run / "rows.parquet").iter_batches(columns=["decision", "reasons"]):
        for entry in pc.value_counts(batch["decision"]):
            counts[entry["values"].as_py()] += entry["counts"].as_py()
        flagged = batch.filter(pc.not_equal(batch["decision"], "keep"))
        for entry in pc.value_counts(pc.list_flatten(flagged["reasons"])):
            reasons[entry["values"].as_py()] += entry["counts"].as_py()
    return {name: counts[name] for name in DECISIONS}, {
        code: reasons[code] for code in sorted(reasons, key=precedence)
    }


def arm_means(arm: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": arm.get("rows"),
        "seeds": len(arm["metric"]),
        "metric": fmean(arm["metric"]),
        "loss": fmean(arm["loss"]) if arm.get("loss") else None,
    }


def export_paths(run: RunDirectory) -> dict[str, Any]:
    """Where the export lies, relative to the run directory; `refused` is null where export has not run."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    exported = facts(run.record, "export")
    refused, skipped = exported.get("refused"), exported.get("skipped")
    places = {"cleaned": "cleaned", "quarantine": "quarantine", "manifest": "cleaned/_manifest.json"}
    there = {name: path if (run / path).exists() else None for name, path in places.items()}
    found = {"refused": refused, "gate": config["verification"]["gate"], **there}
    return found | ({"skipped": skipped} if skipped else {})


def sources(detect: dict[str, Any], verification: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for every value that may have made wrong labels; with effects where verification has them."""
    return verification.get("sources") or detect.get("sources") or []


def groups(run: RunDirectory, of_sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decisions by the values of every column of data.group."""
    columns = load_config(run / "config.yaml").data.group
    rows = read_rows(run / "rows.parquet", ["shard", "row", "decision"]) if columns else None
    return [{"column": column, "values": decisions_by_group(rows, column, of_sources)} for column in columns]


def headline(summary: Summary) -> list[str]:
    """The lines of the terminal's box, the verdict first; an empty line parts the verdict from the rest."""
    found = verdict(summary)
    first = f"{found.word}: {found.claim}"
    if found.word == "NO EVIDENCE":  # the claim holds the change already
        first += f". {found.consequence}" if found.consequence else ""
        lines = [first, levels(summary), found.control]
    elif found.word == "NOT TESTED":  # the claim is a sentence, and so is what follows
        lines = [f"{first}. {found.consequence}".rstrip()]
    else:
        lines = [first, found.numbers, found.control, found.consequence]
    lines = [line for line in [*lines, *trigger_lines(summary)] if line] + [""]
    lines.append(reasons_line(summary))
    lines.append(noise_line(summary))
    lines += sources_lines(summary.get("sources") or [])
    lines += [f"warning: {text}" for text in summary.get("warnings", [])]
    lines += [line for line in (promise_line(summary), canaries_line(summary)) if line]
    accuracy = " · ".join(filter(None, (forecast_line(summary), fidelity_line(summary.get("fidelity")))))
    return lines + [line for line in (accuracy, unrolled_line(summary.get("unrolled"))) if line]


def trigger_lines(summary: Summary) -> list[str]:
    """One per trigger: where it is, how many rows carry it, and how often it works before and after cleaning."""
    lines = []
    for found in summary["backdoors"]:
        line = (
            f"backdoor to {words.label(found['target'])}: {found['description']}, {words.rows(found['rows'])}"
        )
        if found["before"] is not None:
            before, after = (words.percent(max(0.0, found[arm])) for arm in ("before", "after"))
            line += f"; it works on {before} of the holdout as given, on {after} after cleaning"
        lines.append(line)
    return lines


def reasons_line(summary: Summary) -> str:
    if not summary["reasons"]:
        return "nothing was flagged"
    return " · ".join(f"{code} {words.count(number)}" for code, number in summary["reasons"].items())


def noise_line(summary: Summary) -> str:
    noise = summary["estimated_noise"]
    if noise is None:
        note = summary["estimated_noise_note"] or ""
        return f"wrong labels in the train set: not estimated. {note}".rstrip(" .")
    value, low, high = (f"{100 * noise[end]:.1f}" for end in ("value", "low", "high"))
    return f"wrong labels in the train set, estimated: {value} % ({low} – {high})"


def promise_line(summary: Summary) -> str:
    """What the rule promises about what it removed."""
    promise = summary.get("promise")
    return f"rule {promise['rule']}: {promise['text']}" if promise else ""


def canaries_line(summary: Summary) -> str:
    canaries = summary.get("canaries")
    if not canaries:
        return ""
    removed = canaries["removed"]
    value, low, high = (f"{100 * removed[end]:.0f}" for end in ("value", "low", "high"))
    return (
        f"labels flipped on purpose: {words.count(canaries['planted'])}, to be removed {removed['rows']:,}: "
        f"{value} % ({low} – {high}), an estimate for uniform errors"
    )


def forecast_line(summary: Summary) -> str:
    """Forecast and measurement of the change of the mean validation loss, in nats."""
    predicted, measured = summary["predicted_loss_change"], summary["measured_loss_change"]
    if measured is not None and low_fidelity(summary.get("fidelity")):
        return (
            "no forecast of the validation loss: fidelity is low; its change was measured as "
            f"{words.signed(measured['mean'], 3)}"
        )
    if predicted is None or measured is None:
        return ""
    calibrated = summary["calibrated_by"] not in (None, "uncalibrated")
    how = "scaled by a measured factor" if calibrated else "uncalibrated"
    return (
        f"forecast of the validation loss {words.signed(predicted, 3)} ({how}), "
        f"measured {words.signed(measured['mean'], 3)}"
    )
