"""Rows are encoded alike whatever the format of their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data.small import run_prepare

ROWS = 90
FEATURES = {"x": "numeric", "n": "numeric", "kind": "category", "text": "text"}


def table() -> pa.Table:
    random = np.random.default_rng(0)
    words = random.choice(["good", "bad", 'a "quoted" one', "with, comma", "line\nbreak", "é"], (ROWS, 5))
    gaps = random.random(ROWS) < 0.1
    return pa.table(
        {
            "x": pa.array(random.normal(size=ROWS), mask=gaps),
            "n": random.integers(-5, 5, ROWS),
            "kind": random.choice(["NA", "b", "007"], ROWS),
            "text": [" ".join(row) for row in words],
            "label": random.choice(["yes", "no"], ROWS),
        }
    )


def write(rows: pa.Table, path: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    match Path(path).suffix:
        case ".csv":
            pyarrow.csv.write_csv(rows, path)
        case ".jsonl":
            Path(path).write_text("\n".join(map(json.dumps, rows.to_pylist())))
        case ".json":
            Path(path).write_text(json.dumps(rows.to_pylist(), indent=1))
        case ".feather":
            pyarrow.feather.write_feather(rows, path)
        case _:
            pq.write_table(rows, path)
    return path


def prepared(path: str, name: str) -> dict[str, Any]:
    """The facts of the stage and the rows by their content."""
    found = run_prepare(Path(name), train=path, features=FEATURES, missing_features="impute")
    names = ("rows", "task", "class_counts", "features")
    return {key: found.facts[key] for key in names} | {"rows": sorted(found.catalog()["content_hash"])}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "feather"])
def test_a_format_changes_nothing(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = prepared(write(table(), "a.parquet"), "1")
    assert prepared(write(table(), f"a.{suffix}"), "2") == wanted


def test_a_label_that_is_a_folder_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = table()
    wanted = prepared(write(rows, "a.parquet"), "1")
    for label in ("yes", "no"):
        mine = rows.filter(pa.compute.equal(rows["label"], label)).drop_columns(["label"])
        write(mine, f"hive/label={label}/p.parquet")
    assert prepared("hive", "2") == wanted
