"""What is new since the audit before, and how it differs from the rows that were there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.catalog import read_catalog
from pipeline.detection.intervals import wilson
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.shares import CHANCE_WRONG, share_of_rows
from pipeline.history.folder import history_folder
from pipeline.history.rows import changes_since
from pipeline.report.breakdown import read_rows
from pipeline.report.groups import MOST_VALUES, SHARD, decisions_by_group, interval, line
from pipeline.runs.directory import RunDirectory
from pipeline.text import words
from pipeline.text.decisions import DECISIONS, FLAGGED, Decision

News = dict[str, Any]
MOST_NAMED = 3


def news_of(run: RunDirectory, config: AuditConfig, estimate: dict[str, float] | None) -> News | None:
    """Compare the new rows of a run with the others.

    Args:
        run: with rows.parquet.
        config: of the run.
        estimate: the estimated share of wrong labels among the train rows; None if it is unknown.

    Returns:
        `since` (the run before), `rows` (of the catalog), `new`, `changed`, `vanished`; and of the judged rows `of_new`
        and `of_others`: `rows`, `flagged_share` (95 % score interval) and `wrong_share` (as the estimate; None if
        unknown); `new_classes` (label → rows); `groups`: for shards and each column of `data.group`, the decisions
        about new rows by value. None for the first audit of a dataset.
    """
    keyed = config.data.key is not None
    changes = changes_since(history_folder(run.path, config.name), run.path, keyed)
    if changes is None:
        return None
    found: News = {
        "since": changes.since,
        "rows": len(changes.new),
        "new": int(changes.new.sum()),
        "changed": int(changes.changed.sum()),
        "vanished": changes.vanished,
    }
    if not changes.new.any():
        return found
    keys = read_catalog(run.path, columns=["row_key"])["row_key"].filter(pa.array(changes.new))
    rows = read_rows(run / "rows.parquet", ["row_key", SHARD, "row", "decision", "label"])
    is_new = pc.is_in(rows["row_key"], keys.combine_chunks())
    chosen = is_new.to_numpy()
    wrong = _chance_wrong(run) if estimate is not None else None
    return found | {
        "of_new": _part(rows, chosen, wrong, estimate),
        "of_others": _part(rows, ~chosen, wrong, estimate),
        "new_classes": _new_classes(rows, is_new) if _has_classes(run) else {},
        "groups": _by_value(rows.filter(is_new), config.data.group),
    }


def _has_classes(run: RunDirectory) -> bool:
    return bool(run.facts("prepare").get("task", "classification") == "classification")


def _chance_wrong(run: RunDirectory) -> np.ndarray | None:
    """P(the label is wrong) of every line of rows.parquet, float64, NaN if unknown; None without a panel."""
    path = run / "signals.parquet"
    if CHANCE_WRONG not in pq.read_schema(path).names:
        return None
    values = pq.read_table(path, columns=[CHANCE_WRONG], partitioning=None)[0]
    return pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy()


def _part(
    rows: pa.Table, chosen: np.ndarray, wrong: np.ndarray | None, estimate: dict[str, float] | None
) -> dict[str, Any]:
    """The number of rows, the share that is flagged and the share of wrong labels of some rows."""
    count = int(chosen.sum())
    flagged = pc.not_equal(rows["decision"], Decision.KEEP.word).to_numpy()
    found: dict[str, Any] = {"rows": count, "flagged_share": None, "wrong_share": None}
    if not count:
        return found
    found["flagged_share"] = wilson(int(flagged[chosen].sum()), count)
    if wrong is not None and estimate is not None:
        known = wrong[chosen & np.isfinite(wrong)]
        if len(known):
            found["wrong_share"] = asdict(share_of_rows(known, NoiseEstimate(**estimate)))
    return found


def _new_classes(rows: pa.Table, is_new: pa.ChunkedArray) -> dict[str, int]:
    """Label → new rows that have it, of labels that no other row has."""
    before = pc.unique(rows["label"].filter(pc.invert(is_new)))
    labels = rows["label"].filter(is_new)
    labels = labels.filter(pc.invert(pc.is_in(labels, before)))
    return {words.label(each["values"]): each["counts"] for each in pc.value_counts(labels).to_pylist()}


def _by_value(new: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The decisions about new rows by shard and by the values of the columns of `data.group`."""
    shards = []
    for shard in pc.value_counts(new[SHARD]).to_pylist()[:MOST_VALUES]:
        of_shard = new.filter(pc.equal(new[SHARD], shard["values"]))["decision"].to_pylist()
        shards.append(line(shard["values"], {name: of_shard.count(name) for name in DECISIONS}))
    found = [{"column": SHARD, "values": sorted(shards, key=lambda each: -each["rows"])}]
    return found + [{"column": column, "values": decisions_by_group(new, column)} for column in columns]


def news_lines(news: News | None) -> list[str]:
    """What is new, in sentences; empty for the first audit, and if nothing has changed."""
    if news is None or not (news["new"] or news["changed"] or news["vanished"]):
        return []
    first = f"{words.count(news['new'])} of {words.rows(news['rows'])} are new since {news['since']}"
    if news["new"]:
        first += _against_others(news)
    lines = [first]
    gone = [
        f"{words.rows(news[what])} {said}"
        for what, said in (("changed", "changed"), ("vanished", "gone"))
        if news[what]
    ]
    if gone:
        lines.append(" · ".join(gone))
    if news.get("new_classes"):
        named = [f"{label} ({words.rows(count)})" for label, count in news["new_classes"].items()]
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        lines.append(f"new class: {', '.join(named[:MOST_NAMED])}{more}")
    worst = _worst_value(news)
    return lines if worst is None else [*lines, worst]


def _against_others(news: News) -> str:
    new, others = news["of_new"], news["of_others"]
    for key, said in (
        ("wrong_share", "of their labels wrong, estimated"),
        ("flagged_share", "of them flagged"),
    ):
        if new[key] is not None:
            against = f"; of the others {words.percent(others[key]['value'])}" if others[key] else ""
            return f": {interval(new[key])} {said}{against}"
    return ": none of them is judged"


def _worst_value(news: News) -> str | None:
    """The value of a group with clearly more flags among its new rows than among the other new rows, if there is one.

    Clearly: the 95 % intervals of the two shares don't overlap.
    """
    found: list[tuple[float, str]] = []
    for group in news.get("groups") or []:
        total = sum(each["rows"] for each in group["values"])
        flagged = sum(each[name] for each in group["values"] for name in FLAGGED)
        for each in group["values"]:
            mine = sum(each[name] for name in FLAGGED)
            if each["rows"] == total:
                continue
            here, there = wilson(mine, each["rows"]), wilson(flagged - mine, total - each["rows"])
            if here["low"] > there["high"]:
                text = (
                    f"{group['column']} {each['value']}: {interval(here)} of its {words.count(each['rows'])} new rows "
                    f"flagged, {words.percent(there['value'])} of the other new rows"
                )
                found.append((here["value"] - there["value"], text))
    return max(found)[1] if found else None
