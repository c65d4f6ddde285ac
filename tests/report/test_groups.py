"""Decisions by the values of data.group."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from pipeline.report.breakdown import read_rows
from pipeline.report.groups import decisions_by_group, sources_lines
from pipeline.report.html import page
from pipeline.report.summary import headline, summary
from pipeline.runs.directory import read_json, write_json

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
    (found,) = summary(context.run)["groups"]
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
    assert found["groups"] == []
    assert "Decisions by" not in page(context.run, context.config, found)


def test_a_shard_that_is_gone_is_passed_over(texts: Any) -> None:
    context = texts.build()
    rows = read_rows(context.run / "rows.parquet", COLUMNS)
    (texts.folder / "train/part-000.parquet").unlink()
    assert sum(line["rows"] for line in decisions_by_group(rows, "annotator")) == 200 - 67


def source(value: str, named: bool, **more: Any) -> dict[str, Any]:
    share = {"value": 0.312, "low": 0.27, "high": 0.352}
    return {
        "column": "annotator",
        "value": value,
        "rows": 20,
        "flagged": 5,
        "flagged_share": {"value": 0.25, "low": 0.2, "high": 0.3},
        "wrong_share": share,
        "others_share": 0.08,
        "p_value": 1e-9 if named else 0.4,
        "named": named,
        "declared": True,
        "forecast": None,
        "measured": None,
    } | more


def test_the_source_that_is_named_stands_in_terminal_summary_and_first_on_the_page(texts: Any) -> None:
    context = texts.build()
    record = read_json(context.run / "record.json")
    lines = [source("anna", False), source("carol", True)]
    record["stages"]["detect"]["facts"]["sources"] = lines
    write_json(context.run / "record.json", record)
    found = summary(context.run)
    assert found["sources"] == lines
    assert "annotator carol: 31 % of its labels wrong (27 – 35), others 8 %" in headline(found)
    (group,) = found["groups"]
    assert group["values"][0]["value"] == "carol"
    by_value = {line["value"]: line["source"] for line in group["values"]}
    assert (by_value["anna"], by_value["bert"]) == (lines[0], None)
    text = page(context.run, context.config, found)
    assert "Annotator carol: 31 % of its labels wrong" in text
    assert "31.2 % (27.0 – 35.2)" in text


def test_what_leaving_the_source_out_does_is_said_as_verification_wrote_it(texts: Any) -> None:
    context = texts.build()
    measured = {"seed": 1, "rows": 100, "validation_loss": -0.02, "loss": None, "metric": None}
    lines = [source("carol", True, forecast=-0.031, measured=measured)]
    written = read_json(context.run / "verification.json") | {"sources": lines}
    write_json(context.run / "verification.json", written)
    found = summary(context.run)
    said = "without it the validation loss changes by −0.031 forecast, −0.020 measured"
    assert any(line.endswith(said) for line in headline(found))
    assert "−0.031 forecast, −0.020 measured" in page(context.run, context.config, found)


def test_where_no_source_is_named_the_terminal_names_none() -> None:
    assert sources_lines([source("anna", False)]) == []


def test_a_column_that_nobody_declared_is_said_to_decide_about_errors() -> None:
    (line,) = sources_lines([source("anna", True, declared=False)])
    assert line == "wrong labels depend on annotator = anna: 31 % of its labels wrong (27 – 35), others 8 %"


def test_without_an_estimated_share_flags_are_said() -> None:
    (line,) = sources_lines([source("anna", True, wrong_share=None, others_share=None)])
    assert line.endswith("25.0 % (20.0 – 30.0) of its rows are flagged")
