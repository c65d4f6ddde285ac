"""Makes report/index.html: one file of bounded size that loads nothing from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from markupsafe import Markup

from pipeline.config import AuditConfig
from pipeline.data.originals import class_names, read_schema
from pipeline.errors import WinnowError
from pipeline.report import fidelity, svg
from pipeline.report.advice import next_steps
from pipeline.report.breakdown import (
    Breakdown,
    by_group,
    by_shard,
    confusion,
    flagged_rows,
    read_rows,
    suspicion_bins,
)
from pipeline.report.gallery import galleries
from pipeline.report.group_effects import effect_lines, effect_sentence
from pipeline.report.groups import group_tables, sources_lines
from pipeline.report.method import method_line
from pipeline.report.news import news_lines
from pipeline.report.pages import environment
from pipeline.report.pairs import pair_lines
from pipeline.report.signals import shown_signals
from pipeline.report.summary import Summary, facts, forecast_line, noise_line, situation_line
from pipeline.report.trial import trial_sentence
from pipeline.report.unrolled import unrolled_sentence
from pipeline.report.verdict import change, verdict
from pipeline.runs.directory import RunDirectory, read_json
from pipeline.text import words
from pipeline.text.arms import ARMS, RANDOM_OF
from pipeline.text.decisions import DECISIONS

if TYPE_CHECKING:
    from pipeline.report.triggers import Trigger

MOST_BYTES = 3_000_000
MOST_POINTS = 400
MOST_SETTINGS = 20_000
CARDS = 24

LOSSES = {"train_loss": "train", "out_of_sample_loss": "out of sample", "validation_loss": "validation"}
METRICS = {"train_metric": "train", "validation_metric": "validation"}


def page(run: RunDirectory, config: AuditConfig, summary: Summary, most_bytes: int = MOST_BYTES) -> str:
    """The report as HTML, with at most `most_bytes` bytes of UTF-8.

    A larger page is made again without pictures, then with fewer cards.

    Raises:
        WinnowError: the page is too large even without cards.
    """
    view = _overview(run, config, summary)
    signals = [each for each in shown_signals(facts(run.record, "detect")) if each.counts]
    template = environment().get_template("report.html.j2")
    for cards, pictures in ((CARDS, True), (CARDS, False), (CARDS // 4, False), (0, False)):
        shown = galleries(run, config.data, signals, cards, pictures)
        text = template.render(view, galleries=shown)
        if len(text.encode()) <= most_bytes:
            return text
    raise WinnowError(
        f"The report would have {words.size(len(text.encode()))}, more than {words.size(most_bytes)}.",
        "Shorten the names of shards, groups or classes.",
    )


def triggers(run: RunDirectory, record: dict[str, Any], names: dict[Any, str]) -> list[Trigger]:
    alarms = facts(record, "detect").get("backdoors", [])
    if not alarms:
        return []
    from pipeline.report import triggers as reconstructed  # needs torch

    return reconstructed.triggers(run, alarms, names)


def _overview(run: RunDirectory, config: AuditConfig, summary: Summary) -> dict[str, Any]:
    """The values for the template, except the cards."""
    rows = read_rows(run / "rows.parquet", ["shard", "row", "decision", "suspicion"])
    flagged = read_rows(run / "rows.parquet", ["decision", "label", "suggested_label"], flagged=True)
    record = run.record
    regression = summary["task"] == "regression"
    settings = (run / "config.yaml").read_text(encoding="utf-8")
    names = _names_of(rows, config)
    signals = shown_signals(facts(record, "detect"))
    return {
        "summary": summary,
        "news": news_lines(summary.get("news")),
        "verdict": verdict(summary),
        "steps": next_steps(summary, config, str(run.path)),
        "flagged": flagged_rows(summary["decisions"]),
        "decision_bar": decision_bar(summary),
        "arms": _arms_chart(run, summary),
        "confusion": confusion(flagged, names) if summary["task"] == "classification" else None,
        "pairs": pair_lines(summary["confused_pairs"], names),
        "triggers": triggers(run, record, names),
        "breakdowns": breakdowns(rows, config),
        "group_tables": group_tables(summary["groups"]),
        "sources_said": sources_lines(summary["sources"]),
        "hurt": effect_lines(summary, names),
        "hurt_sentence": effect_sentence(summary, names),
        "prepare": facts(record, "prepare"),
        "train": facts(record, "train"),
        "trial": trial_sentence(summary["trial"]),
        "factors": facts(record, "factors"),
        "attribution_made": method_line(summary["attribution"]),
        "precision": precision(facts(record, "attribute")),
        "detect": facts(record, "detect"),
        "signals": [each for each in signals if each.counts],
        "other_signals": [each for each in signals if not each.counts],
        "loss_unit": "loss units" if regression else "nats",
        "curves": _training_curves(facts(record, "train")),
        "histogram": svg.histogram(suspicion_bins(rows), words.count, "rows by suspicion and decision"),
        "noise": noise_line(summary),
        "situation": situation_line(summary),
        "measures": _measure_lines(summary),
        "forecast": forecast_line(summary),
        "fidelity": fidelity.shown(summary["fidelity"], "loss units" if regression else "nats"),
        "unrolled": unrolled_sentence(summary["unrolled"]),
        "settings": words.shorten(settings, MOST_SETTINGS),
        "threads": record.get("threads"),
        "longest_stage": max(filter(None, summary["timings"].values()), default=1.0),
    }


def precision(attribute: dict[str, Any]) -> str:
    """The precision of scoring and how much it changed the scores; empty for float32."""
    error = attribute.get("precision_error")
    if error is None:
        return ""
    said = {"self_influence": "self-influence", "validation_harm": "harm"}
    changed = [
        f"{word} by {words.percent(error[name], 2)}" for name, word in said.items() if error[name] is not None
    ]
    rows = f"{attribute['precision']}; of {words.rows(error['rows'])} drawn at random"
    return f"{rows} it changes {' and '.join(changed)} of the largest score, at most"


def _names_of(rows: pa.Table, config: AuditConfig) -> dict[Any, str]:
    schema = read_schema(rows["shard"][0].as_py())
    return class_names(schema, config.data.label) if schema is not None else {}


def decision_bar(summary: Summary) -> Markup:
    total = max(1, summary["rows_audited"])
    parts = [
        (name, f"{name}: {words.rows(summary['decisions'][name])}", summary["decisions"][name] / total)
        for name in reversed(DECISIONS)
    ]
    return svg.stack(parts, "rows by decision")


def _measure_lines(summary: Summary) -> list[dict[str, Any]]:
    """A line for each measure of the arms; the one that the verdict rests on is marked."""
    found = []
    for name, measure in summary["measures"].items():
        gain = measure["differences"]["cleaned - as_given"]
        loss = tuple(f"{gain['loss'][end]:+.3f}".replace("-", "−") for end in ("mean", "low", "high"))
        found.append(
            {
                "words": measure["words"],
                "rows": words.count(measure["rows"]),
                "metric": change(gain["metric"], summary["metric"]).replace("95 % interval ", ""),
                "loss": f"{loss[0]} ({loss[1]} … {loss[2]})",
                "finding": measure["finding"],
                "decides": name == summary["decided_by"],
            }
        )
    return found


def breakdowns(rows: pa.Table, config: AuditConfig) -> list[tuple[str, Breakdown]]:
    found = [("shard", by_shard(rows))]
    found = [*((name, by_group(rows, name)) for name in config.data.group), *found]
    return [(words.shorten(name, 60), lines) for name, lines in found if lines.lines]


def _arms_chart(run: RunDirectory, summary: Summary) -> dict[str, Any] | None:
    """The chart of the arms: dots for each arm, and an interval for each difference; None if nothing was retrained."""
    measured = read_json(run / "verification.json").get("arms")
    if not measured:
        return None
    metric, measure = summary["metric"], summary["decided_by"]
    again = {summary["exported"]} | {name for name in measured if name.startswith(RANDOM_OF)}
    arms = {
        name: arm["measures"][measure]["metric"] if measure in arm.get("measures", {}) else arm["metric"]
        for name, arm in measured.items()
        if name not in again
    }
    scale = svg.domain([value for values in arms.values() for value in values])
    lines = []
    for name, values in arms.items():
        mean = summary["arms"][name]["metric"]
        said = ARMS.get(name, name)
        dots = svg.dots(values, mean, scale, f"{said}: {words.level(mean, metric)}")
        lines.append({"name": name, "said": said, "dots": dots, "mean": words.level(mean, metric)})
    intervals = {
        name: entry["metric"]
        for name, entry in summary["differences"].items()
        if not again & set(name.split(" - "))
    }
    across = svg.domain([0.0] + [entry[end] for entry in intervals.values() for end in ("low", "high")])
    differences = []
    for name, entry in intervals.items():
        one, two = (ARMS.get(arm, arm) for arm in name.split(" - "))
        chart = svg.interval(entry["mean"], entry["low"], entry["high"], across, name)
        said = change(entry, metric)
        differences.append({"said": f"{one} against {two}", "chart": chart, "change": said})
    return {
        "lines": lines,
        "axis": svg.axis(scale, lambda value: words.level(value, metric)),
        "differences": differences,
        "difference_axis": svg.axis(across, lambda tick: words.changes([tick], metric)[0] if tick else "0"),
    }


def _training_curves(train: dict[str, Any]) -> list[dict[str, Any]]:
    """The charts of the losses and of the metric over the epochs, with their lines."""
    curve = train.get("curve") or []
    curve = curve[:: max(1, -(-len(curve) // MOST_POINTS))]
    metric, mark = train.get("metric", ""), train.get("early_epoch")
    charts = []
    for title, columns, write in (
        ("Mean loss", LOSSES, lambda value: f"{value:.3g}"),
        (words.metric(metric), METRICS, lambda value: words.level(value, metric)),
    ):
        lines = [
            svg.Series(name, column, points)
            for column, name in columns.items()
            if len(points := [(e["epoch"], e[column]) for e in curve if e.get(column) is not None]) > 1
        ]
        if lines:
            marked = None if mark is None else (float(mark), f"e* = {mark}")
            charts.append({"title": title, "lines": lines, "chart": svg.curves(lines, marked, write)})
    return charts
