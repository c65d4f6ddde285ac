from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.breakdown import (
    MOST_CLASSES,
    MOST_LINES,
    by_group,
    by_shard,
    confusion,
    read_rows,
    suspicion_bins,
)

COLUMNS = ["shard", "row", "decision", "suspicion"]


def test_shards_are_counted_and_named_without_their_common_folder(texts: Any) -> None:
    context = texts.build()
    rows = pq.read_table(context.run / "rows.parquet").to_pylist()
    found = by_shard(read_rows(context.run / "rows.parquet", COLUMNS))
    total = Counter(Path(row["shard"]).name for row in rows)
    flagged = Counter(Path(row["shard"]).name for row in rows if row["decision"] != "keep")
    assert {line.name: (line.rows, line.flagged) for line in found.lines} == {
        name: (total[name], flagged[name]) for name in total
    }
    assert [line.share for line in found.lines] == sorted((line.share for line in found.lines), reverse=True)


def test_the_group_that_makes_the_mistakes_stands_out(texts: Any) -> None:
    context = texts.build()
    rows = pq.read_table(context.run / "rows.parquet").to_pylist()
    annotators = texts.table["annotator"].to_pylist()
    found = by_group(read_rows(context.run / "rows.parquet", COLUMNS), "annotator")
    flagged = Counter(name for name, row in zip(annotators, rows, strict=True) if row["decision"] != "keep")
    assert {line.name: (line.rows, line.flagged) for line in found.lines} == {
        name: (number, flagged[name]) for name, number in Counter(annotators).items()
    }
    assert [line.name for line in found.lines if line.stands_out] == ["carol"]
    assert found.lines[0].name == "carol"


def test_group_of_a_shard_that_is_gone_is_passed_over(texts: Any) -> None:
    context = texts.build()
    rows = read_rows(context.run / "rows.parquet", COLUMNS)
    (texts.folder / "train/part-000.parquet").unlink()
    found = by_group(rows, "annotator")
    assert sum(line.rows for line in found.lines) == 200 - 67
    assert by_group(rows, "no such column").lines == []


def test_only_the_most_flagged_lines_are_listed() -> None:
    names = [f"shard-{place:03d}.parquet" for place in range(40) for _ in range(5)]
    decisions = ["remove" if place % 5 < place // 50 else "keep" for place in range(200)]
    rows = pa.table({"shard": names, "decision": decisions})
    found = by_shard(rows)
    assert len(found.lines) == MOST_LINES
    assert found.left_out == 40 - MOST_LINES
    assert found.highest == found.lines[0].share == 0.6


def test_confusion_counts_pairs_of_given_and_suggested() -> None:
    given, suggested = ["b", "b", "a", "a", "c"], ["a", "a", "c", "a", None]
    found = confusion(pa.table({"label": given, "suggested_label": suggested}), {})
    assert found is not None
    assert found.names == ["a", "b", "c"]
    assert found.cells == [[0, 0, 1], [2, 0, 0], [0, 0, 0]]
    assert found.pairs == [("b", "a", 2), ("a", "c", 1)]
    assert found.largest == 2


def test_confusion_of_many_classes_keeps_the_most_frequent() -> None:
    given = [place for place in range(50) for _ in range(place + 1)]
    found = confusion(pa.table({"label": given, "suggested_label": [99] * len(given)}), {99: "other"})
    assert found is not None
    assert len(found.names) == MOST_CLASSES
    assert found.left_out == 51 - MOST_CLASSES
    assert found.names[-1] == "other"


def test_no_other_label_no_confusion() -> None:
    empty = pa.table({"label": pa.array([1, 2]), "suggested_label": pa.array([None, 2], pa.int64())})
    assert confusion(empty, {}) is None


def test_every_row_is_in_one_bin_under_its_decision() -> None:
    rows = pa.table({"suspicion": [0.0, 0.5, 0.99, 1.0], "decision": ["keep", "keep", "review", "remove"]})
    bins = suspicion_bins(rows)
    assert sum(number for column in bins for _, number in column) == 4
    assert dict(bins[0])["keep"] == 1
    assert dict(bins[-1]) == {"keep": 0, "review": 1, "remove": 1, "relabel": 0}
