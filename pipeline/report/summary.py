"""Makes report/summary.json, the run in numbers, and a summary of a few lines for the terminal."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES, load_config
from pipeline.config.yaml_text import read_yaml
from pipeline.data.situation import AS_NOISY
from pipeline.export.manifest import AS_GIVEN, manifest_path
from pipeline.report.breakdown import read_rows
from pipeline.report.fidelity import fidelity_line, low_fidelity
from pipeline.report.groups import decisions_by_group, sources_lines
from pipeline.report.method import attribution
from pipeline.report.news import news_lines, news_of
from pipeline.report.trial import trial_summary
from pipeline.report.unrolled import unrolled_line
from pipeline.report.verdict import Summary, levels, verdict
from pipeline.runs.directory import RunDirectory, read_json
from pipeline.text import words
from pipeline.text.decisions import CHANGED, DECISIONS, Decision
from pipeline.text.reasons import precedence


def summary(run: RunDirectory) -> Summary:
    """The content of report/summary.json, from a run whose detection and verification are done.

    Counts come from the columns `decision` and `reasons` of rows.parquet. Metrics are as in verification.json (shares
    are in 0..1). Loss changes and harms are in nats, times in seconds.
    """
    record, verification = run.record, _without_poor_forecasts(read_json(run / "verification.json"))
    stages = record["stages"]
    prepare, factors, detect = (facts(record, stage) for stage in ("prepare", "factors", "detect"))
    decisions, reasons = _count_decisions(run)
    return {
        "run_id": run.run_id,
        "name": record.get("name", run.path.parent.name),
        "task": prepare.get("task", "classification"),
        "rows": prepare.get("rows", {}),
        "rows_audited": sum(decisions.values()),
        "decisions": decisions,
        "decisions_by_role": _count_by_role(run),
        "proposed": _count_proposed(run),
        "by_people": detect.get("by_people"),
        "by_history": detect.get("by_history", 0),
        "news": news_of(run, load_config(run / "config.yaml"), detect.get("estimated_noise")),
        "reasons": reasons,
        "estimated_noise": detect.get("estimated_noise"),
        "estimated_noise_note": detect.get("estimated_noise_note"),
        "contradicted_share": detect.get("contradicted_share"),
        "estimated_noise_file": detect.get("estimated_noise_file"),
        "estimated_noise_holdout": detect.get("estimated_noise_holdout"),
        "labels": detect.get("labels") or {},
        "judges": detect.get("judges") or [],
        "confused_pairs": detect.get("confused_pairs") or [],
        "calibration": detect.get("calibration"),
        "warnings": detect.get("warnings") or [],
        "promise": detect.get("promise"),
        "canaries": detect.get("canaries"),
        "groups": groups(run, sources(detect, verification)),
        "sources": sources(detect, verification),
        "worst_source": worst_source(sources(detect, verification)),
        "group_effects": verification.get("groups") or [],
        "backdoors": backdoors(detect.get("backdoors") or [], verification.get("backdoors") or []),
        "verdict": verification["verdict"],
        "note": verification.get("note"),
        "metric": verification.get("metric"),
        "higher_is_better": verification.get("higher_is_better", True),
        "arms": {
            name: _arm_means(arm, verification.get("decided_by"))
            for name, arm in (verification.get("arms") or {}).items()
        },
        "differences": _deciding_differences(verification),
        "decided_by": verification.get("decided_by"),
        "reason": verification.get("reason"),
        "worse_than_random": verification.get("worse_than_random"),
        "exported": verification.get("exported"),
        "holdout": verification.get("holdout"),
        "power": verification.get("power"),
        "measures": verification.get("measures") or {},
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
        "trial": trial_summary(facts(record, "train").get("trial")),
        "attribution": attribution(facts(record, "train"), factors, facts(record, "attribute")),
        "versions": record.get("versions", {}),
        "seeds": record.get("seeds", {}),
        "device": record.get("device"),
        "export": _export_paths(run),
        "report": "report/index.html",
    }


def _without_poor_forecasts(verification: dict[str, Any]) -> dict[str, Any]:
    """Remove all forecasts if fidelity is low, since these scores do not predict the effect of retraining."""
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
    """Every backdoor with its proof, and the success of its trigger before and after cleaning (None if unmeasured)."""
    said = ("target", "kind", "description", "rows", "flip_rate", "purity", "content")
    successes = [{name: found[name] for name in ("before", "after")} for found in measured]
    return [
        {name: alarm[name] for name in said} | success
        for alarm, success in zip(alarms, successes or [{"before": None, "after": None}] * len(alarms))
    ]


def facts(record: dict[str, Any], stage: str) -> dict[str, Any]:
    """The facts of a stage; empty if the stage has not run."""
    return record["stages"].get(stage, {}).get("facts") or {}


def _count_decisions(run: RunDirectory) -> tuple[dict[str, int], dict[str, int]]:
    """Rows per decision, and flagged rows (decision other than keep) per reason, in the order of REASONS."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for batch in pq.ParquetFile(run / "rows.parquet").iter_batches(columns=["decision", "reasons"]):
        for entry in pc.value_counts(batch["decision"]):
            counts[entry["values"].as_py()] += entry["counts"].as_py()
        flagged = batch.filter(pc.not_equal(batch["decision"], Decision.KEEP.word))
        for entry in pc.value_counts(pc.list_flatten(flagged["reasons"])):
            reasons[entry["values"].as_py()] += entry["counts"].as_py()
    return {name: counts[name] for name in DECISIONS}, {
        code: reasons[code] for code in sorted(reasons, key=precedence)
    }


def _count_by_role(run: RunDirectory) -> dict[str, dict[str, int]]:
    """Role → rows per decision, for the roles whose rows are judged."""
    rows = _stored_columns(run, ["split", "decision"])
    if "split" not in rows.column_names:
        return {}
    counted = rows.group_by(["split", "decision"]).aggregate([([], "count_all")]).to_pylist()
    counts = {(line["split"], line["decision"]): line["count_all"] for line in counted}
    roles = [role for role in ROLES if role in {line["split"] for line in counted}]
    return {role: {name: counts.get((role, name), 0) for name in DECISIONS} for role in roles}


def _count_proposed(run: RunDirectory) -> dict[str, int]:
    """Proposed decision → rows to which verification gave another decision."""
    rows = _stored_columns(run, ["proposed"])
    proposed = Counter(rows["proposed"].to_pylist()) if rows.column_names else Counter()
    return {name: proposed[name] for name in CHANGED}


def _stored_columns(run: RunDirectory, names: list[str]) -> pa.Table:
    """Read columns of rows.parquet; columns that runs of earlier versions lack are left out."""
    path = run / "rows.parquet"
    there = set(pq.read_schema(path).names)
    return read_rows(path, [name for name in names if name in there])


def _deciding_differences(verification: dict[str, Any]) -> dict[str, Any]:
    """The differences on the measure that the verdict rests on; on labels as given if no measure is named."""
    measure = (verification.get("measures") or {}).get(verification.get("decided_by"))
    return (measure["differences"] if measure else verification.get("differences")) or {}


def _arm_means(arm: dict[str, Any], measure: str | None = None) -> dict[str, Any]:
    """The means of an arm on a measure; on labels as given if the arm lacks the measure."""
    arm = arm | (arm.get("measures") or {}).get(measure, {})
    return {
        "rows": arm.get("rows"),
        "seeds": len(arm["metric"]),
        "metric": fmean(arm["metric"]),
        "loss": fmean(arm["loss"]) if arm.get("loss") else None,
    }


def _export_paths(run: RunDirectory) -> dict[str, Any]:
    """The paths of the export, relative to the run directory; `refused` is null if the stage has not run."""
    config = read_yaml((run / "config.yaml").read_text(encoding="utf-8"))
    exported = facts(run.record, "export")
    refused, skipped = exported.get("refused"), exported.get("skipped")
    there: dict[str, Any] = {
        name: name if (run / name).exists() else None for name in ("cleaned", "quarantine")
    }
    there |= {AS_GIVEN: AS_GIVEN} if (run / AS_GIVEN).exists() else {}
    manifest = manifest_path(run)
    there["manifest"] = None if manifest is None else str(manifest.relative_to(run.path))
    there["proposed"] = bool(exported.get("proposed"))
    found = {"refused": refused, "gate": config["verification"]["gate"], **there}
    return found | ({"skipped": skipped} if skipped else {})


def sources(detect: dict[str, Any], verification: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for every source that may have wrong labels, with the effects that verification has computed."""
    return verification.get("sources") or detect.get("sources") or []


def groups(run: RunDirectory, of_sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The decisions for the values of every column of `data.group`."""
    columns = load_config(run / "config.yaml").data.group
    rows = read_rows(run / "rows.parquet", ["shard", "row", "decision"]) if columns else None
    return [{"column": column, "values": decisions_by_group(rows, column, of_sources)} for column in columns]


def headline(summary: Summary) -> list[str]:
    """The lines of the terminal's box: what is new, the verdict, and the other findings, with empty lines between."""
    found = verdict(summary)
    news = news_lines(summary.get("news"))
    first = f"{found.word}: {found.claim}"
    if found.word == "NO EVIDENCE":  # the claim contains the change
        first += f". {found.consequence}" if found.consequence else ""
        lines = [first, levels(summary), found.control, *found.further]
    elif found.word == "NOT TESTED":  # the claim and the consequence are sentences
        lines = [f"{first}. {found.consequence}".rstrip()]
    else:
        lines = [first, found.numbers, found.control, *found.further, found.consequence]
    lines = [line for line in [*lines, *_trigger_lines(summary)] if line] + [""]
    lines = [*news, "", *lines] if news else lines
    lines.append(_reasons_line(summary))
    if summary.get("by_history"):
        lines.append(f"{words.rows(summary['by_history'])} as people decided in earlier audits")
    lines += [line for line in (noise_line(summary), situation_line(summary)) if line]
    lines += sources_lines(summary.get("sources") or [])
    lines += [f"warning: {text}" for text in summary.get("warnings", [])]
    lines += [line for line in (_promise_line(summary), _canaries_line(summary)) if line]
    accuracy = " · ".join(filter(None, (forecast_line(summary), fidelity_line(summary.get("fidelity")))))
    return lines + [line for line in (accuracy, unrolled_line(summary.get("unrolled"))) if line]


def _trigger_lines(summary: Summary) -> list[str]:
    """A line for each trigger: its place, how many rows carry it, and how often it works before and after cleaning."""
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


def _reasons_line(summary: Summary) -> str:
    if not summary["reasons"]:
        return "nothing was flagged"
    return " · ".join(f"{code} {words.count(number)}" for code, number in summary["reasons"].items())


def noise_line(summary: Summary) -> str:
    """The estimated share of wrong labels in the train rows and, if other roles are as noisy, in all judged rows."""
    noise = summary["estimated_noise"]
    if noise is None:
        note = summary["estimated_noise_note"] or ""
        return f"wrong labels in the train set: not estimated. {note}".rstrip(" .")
    line = f"wrong labels in the train set, estimated: {share(noise)}"
    contradicted = summary.get("contradicted_share")
    if contradicted is not None and contradicted > noise["value"]:
        line += (
            f"; judges contradict {words.percent(contradicted)}, the rest is taken for hard and not for wrong"
        )
    whole = summary.get("estimated_noise_file")
    if whole is not None and _as_noisy(summary):
        line += f"; in all {words.rows(summary['rows_audited'])} {share(whole)}"
    return line


def share(estimate: dict[str, float]) -> str:
    """`9.3 % (7.2 – 11.5)`."""
    value, low, high = (f"{100 * estimate[end]:.1f}" for end in ("value", "low", "high"))
    return f"{value} % ({low} – {high})"


def _as_noisy(summary: Summary) -> list[str]:
    """The roles whose labels are assumed to be as noisy as the train labels."""
    return [role for role, state in (summary.get("labels") or {}).items() if state == AS_NOISY]


def situation_line(summary: Summary) -> str:
    """Which labels are known to be right, and what follows; empty for runs of earlier versions."""
    if not summary.get("labels"):
        return ""
    noisy = _as_noisy(summary)
    if not noisy:
        return "labels of validation and holdout rows are declared right"
    roles = " and ".join(noisy)
    return f"no {roles} label is known to be right: they are as noisy as train's, and are judged as well"


def worst_source(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first declared source that is named for wrong labels."""
    return next((line for line in found if line["named"] and line["declared"]), None)


def _promise_line(summary: Summary) -> str:
    """What the rule guarantees about the removed rows."""
    promise = summary.get("promise")
    return f"rule {promise['rule']}: {promise['text']}" if promise else ""


def _canaries_line(summary: Summary) -> str:
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
    """The forecast and the measured change of the mean validation loss, in nats; empty without both."""
    predicted, measured = summary["predicted_loss_change"], summary["measured_loss_change"]
    loss = "the validation loss" + (" (on labels as given)" if "validation" in _as_noisy(summary) else "")
    if measured is not None and low_fidelity(summary.get("fidelity")):
        return (
            f"no forecast of {loss}: fidelity is low; its change was measured as "
            f"{words.signed(measured['mean'], 3)}"
        )
    if predicted is None or measured is None:
        return ""
    calibrated = summary["calibrated_by"] not in (None, "uncalibrated")
    how = "scaled by a measured factor" if calibrated else "uncalibrated"
    return (
        f"forecast of {loss} {words.signed(predicted, 3)} ({how}), "
        f"measured {words.signed(measured['mean'], 3)}"
    )
