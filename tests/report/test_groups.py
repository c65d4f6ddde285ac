"""Decisions by the values of data.group."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from pipeline.report.breakdown import read_rows
from pipeline.report.groups import decisions_by_group
from pipeline.report.html import page
from pipeline.report.summary import summary

COLUMNS = ["shard", "row", "decision"]


def test_decisions_are_counted_by_value_with_intervals(texts: Any) -> None:
    texts.data["group"] = "annotator"
    context = texts.build()
    decisions = pq.read_table(context.run / "rows.parquet")["decision"].to_pylist()
    names = texts.table["annotator"].to_pylist()
    total, removed = (
        Counter(names),
        Counter(n for n, d in zip(names, decisions, strict=True) if d == "remove"),
    )
    found = summary(context.run)["groups"]
    assert found["column"] == "annotator"
    lines = {line["value"]: line for line in found["values"]}
    assert {name: line["rows"] for name, line in lines.items()} == total
    assert {name: line["remove"] for name, line in lines.items()} == {name: removed[name] for name in total}
    for line in lines.values():
        share = line["shares"]["remove"]
        assert share["low"] <= share["value"] == line["remove"] / line["rows"] <= share["high"]
    text = page(context.run, context.config, summary(context.run))
    assert "Decisions by annotator" in text


def test_without_a_group_column_there_is_no_table(images: Any) -> None:
    context = images.build()
    found = summary(context.run)
    assert found["groups"] is None
    assert "Decisions by" not in page(context.run, context.config, found)


def test_a_shard_that_is_gone_is_passed_over(texts: Any) -> None:
    context = texts.build()
    rows = read_rows(context.run / "rows.parquet", COLUMNS)
    (texts.folder / "train/part-000.parquet").unlink()
    assert sum(line["rows"] for line in decisions_by_group(rows, "annotator")) == 200 - 67
