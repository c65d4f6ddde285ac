"""Hive folders as columns, held against what pyarrow's own dataset reads."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.data.formats.sources import open_source, source_schema


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str, rows: int) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": range(rows), "y": ["a"] * rows}), path, row_group_size=2)
    return path


def test_keys_and_types_are_those_that_pyarrow_reads() -> None:
    places = ["label=spam/year=2023", "label=ham%20egg/year=2024", "label=3/year=__HIVE_DEFAULT_PARTITION__"]
    paths = [write(f"data/{place}/p.parquet", 3) for place in places]
    wanted = ds.dataset("data", partitioning="hive")
    for path in paths:
        rows = ds.dataset("data", partitioning="hive").to_table(filter=None)
        file = open_source(path)
        assert file.schema_arrow.equals(wanted.schema)
        assert file.metadata.num_rows == 3
        for row in file.read().to_pylist():
            assert row in rows.to_pylist()
    assert [open_source(path).read()["label"][0].as_py() for path in paths] == ["spam", "ham egg", "3"]
    assert [open_source(path).read()["year"][0].as_py() for path in paths] == [2023, 2024, None]


def test_columns_are_read_in_the_order_asked_for() -> None:
    path = write("data/k=1/p.parquet", 5)
    with open_source(path) as file:
        assert file.read(columns=["k", "x"]).column_names == ["k", "x"]
        assert file.read_row_group(1, columns=["k"]).to_pydict() == {"k": [1, 1]}
        batches = list(file.iter_batches(2, columns=["y", "k"], row_groups=[0, 2]))
        assert [batch.to_pydict() for batch in batches] == [
            {"y": ["a", "a"], "k": [1, 1]},
            {"y": ["a"], "k": [1]},
        ]


def test_other_formats_in_hive_folders_and_a_column_of_the_same_name() -> None:
    for value in ("a", "b"):
        Path(f"data/source={value}").mkdir(parents=True)
        Path(f"data/source={value}/p.csv").write_text("x,source\n1,own\n" if value == "b" else "x,y\n1,2\n")
    assert open_source("data/source=a/p.csv").read().to_pylist() == [{"x": 1, "y": 2, "source": "a"}]
    assert open_source("data/source=b/p.csv").read().to_pylist() == [{"x": 1, "source": "own"}]


def test_only_the_nearest_folders_count() -> None:
    assert source_schema(write("run=7/data/k=1/p.parquet", 1)).names == ["x", "y", "k"]
    assert source_schema(write("run=7/data/p.parquet", 1)).names == ["x", "y"]
