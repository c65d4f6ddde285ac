"""Verdicts of people over two audits of a dataset that has grown meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from review_run import fill

from pipeline.config import AuditConfig
from pipeline.report.summary import headline
from pipeline.results.result import AuditResult
from pipeline.reviewing.review import take_answers, write_sheet
from pipeline.stages.audit import audit
from pipeline.stages.opening import choose_directory

NAMES = np.array(["ham", "spam"])


def blobs(rows: int, seed: int) -> pa.Table:
    """Two blobs, every ninth row with the other label."""
    random = np.random.default_rng(seed)
    truth = np.arange(rows) % 2
    wrong = np.arange(rows) % 9 == 4
    return pa.table(
        {
            "x": 4.0 * truth + random.normal(size=rows),
            "y": random.normal(size=rows),
            "label": NAMES[np.where(wrong, 1 - truth, truth)],
        }
    )


def config(**detection: object) -> AuditConfig:
    return AuditConfig.model_validate(
        {
            "name": "weeks",
            "data": {
                "train": "data/*.parquet",
                "split": {"fractions": [0.6, 0.2, 0.2]},
                "features": {"x": "numeric", "y": "numeric"},
                "label": "label",
            },
            "model": {"name": "mlp", "hidden": [8]},
            "training": {"epochs": 6, "checkpoints": 2, "batch_size": 20},
            "compute": {"workers": 1},
            "detection": detection,
            "verification": {"seeds": 0, "fidelity": 0},
        }
    )


def rows_of(result: AuditResult) -> dict[float, dict[str, object]]:
    """x, which no two rows share → the line of rows.parquet."""
    data = pa.concat_tables(
        [pq.read_table(path).select(["x"]) for path in sorted(Path("data").glob("*.parquet"))]
    )
    x = data["x"].to_pylist()
    starts, done = {}, 0
    for path in sorted(Path("data").glob("*.parquet")):
        starts[str(path)] = done
        done += pq.read_metadata(path).num_rows
    return {x[starts[row["shard"]] + row["row"]]: row for row in result.rows.to_pylist()}


@pytest.fixture
def first_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """A working directory with the rows of the first week."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    table = blobs(320, 0)
    pq.write_table(table, "data/week1.parquet")
    return table


def test_verdicts_hold_when_shards_are_rewritten_and_rows_are_added(first_week: pa.Table) -> None:
    first = audit(config())
    flagged = [row for row in first.flagged.to_pylist() if row["suggested_label"] is not None]
    kept = [row for row in first.rows.to_pylist() if row["decision"] == "keep"]
    right, swapped, wrong = flagged[0], flagged[1], kept[0]
    Path("said.csv").write_text(
        "row_key,decision,label,by\n"
        f"{right['row_key']},right,,ada\n"
        f"{swapped['row_key']},wrong,{swapped['suggested_label']},ada\n"
        f"{wrong['row_key']},remove,,bob\n"
    )
    second = audit(config(decisions="said.csv"))
    x_of = dict(zip(range(320), first_week["x"].to_pylist()))
    assert rows_of(second)[x_of[right["row"]]]["decided_by"] == "person"

    # The next week: one shard for all rows, in another order and after new ones, so that every key has changed.
    order = np.random.default_rng(5).permutation(320)
    Path("data/week1.parquet").unlink()
    pq.write_table(pa.concat_tables([blobs(40, 7), first_week.take(order)]), "data/all.parquet")
    third = rows_of(audit(config()))
    found = {
        name: third[x_of[row["row"]]]
        for name, row in (("right", right), ("swapped", swapped), ("wrong", wrong))
    }
    assert [each["decided_by"] for each in found.values()] == ["history"] * 3
    assert [each["decision"] for each in found.values()] == ["keep", "relabel", "remove"]
    assert found["swapped"]["new_label"] == swapped["suggested_label"]
    assert sum(row["decided_by"] == "history" for row in third.values()) == 3

    # Upstream corrects one label as the person said, and changes the features of another row.
    table = pq.read_table("data/all.parquet")
    x, labels = table["x"].to_numpy().copy(), table["label"].to_pylist()
    labels[int(np.flatnonzero(x == x_of[swapped["row"]])[0])] = swapped["suggested_label"]
    x[x == x_of[right["row"]]] += 1e-6
    pq.write_table(
        table.set_column(0, "x", pa.array(x)).set_column(2, "label", pa.array(labels)), "data/all.parquet"
    )
    fourth = rows_of(audit(config()))
    assert fourth[x_of[swapped["row"]]]["decision"] == "keep"
    assert fourth[x_of[swapped["row"]]]["decided_by"] == "history"
    assert sum(row["decided_by"] == "history" for row in fourth.values()) == 2


@pytest.mark.usefixtures("first_week")
def test_answers_of_a_review_hold_in_the_next_audit_and_nothing_is_done_without_need() -> None:
    first = audit(config())
    written = (first.run / "rows.parquet").stat().st_mtime_ns
    assert audit(config()).run.path == first.run.path
    assert (first.run / "rows.parquet").stat().st_mtime_ns == written
    assert choose_directory(config(), None, again=True).path != first.run.path
    assert choose_directory(config(max_removed=0.2), None).path != first.run.path

    sheet, asked = write_sheet(first.run.path, 6)
    assert sheet is not None
    take_answers(first.run.path, fill(sheet, lambda line: "right"))
    assert choose_directory(config(), None).path != first.run.path  # the answers are new
    second = audit(config())
    by_history = [row for row in second.rows.to_pylist() if row["decided_by"] == "history"]
    assert len(by_history) == asked == 6
    assert {row["decision"] for row in by_history} == {"keep"}
    assert second.summary["by_history"] == 6
    assert choose_directory(config(), None).path == second.run.path

    pq.write_table(blobs(40, 7), "data/week2.parquet")
    assert choose_directory(config(), None).path != second.run.path


def test_an_audit_says_what_is_new(first_week: pa.Table) -> None:
    assert audit(config()).summary["news"] is None
    bad = blobs(60, 7)
    labels = NAMES[(np.arange(60) // 2) % 2]  # half of them wrong
    labels[:10] = "eggs"
    pq.write_table(bad.set_column(2, "label", pa.array(labels)), "data/week2.parquet")
    pq.write_table(first_week.slice(5), "data/week1.parquet")
    result = audit(config())
    news = result.summary["news"]
    assert (news["new"], news["changed"], news["vanished"], news["rows"]) == (60, 0, 5, 375)
    assert news["of_new"]["rows"] + news["of_others"]["rows"] == result.rows.num_rows
    flagged = [row for row in result.flagged.to_pylist() if row["shard"] == "data/week2.parquet"]
    assert news["of_new"]["flagged_share"]["value"] == pytest.approx(len(flagged) / news["of_new"]["rows"])
    assert news["of_new"]["wrong_share"]["low"] > news["of_others"]["wrong_share"]["value"]
    assert news["new_classes"] == {"eggs": 10}
    lines = headline(result.summary)
    assert lines[0].startswith("60 of 375 rows are new since ")
    assert lines[1] == "5 rows gone"
    assert lines[2] == "new class: eggs (10 rows)"
