"""Hive folders as columns, held against what pyarrow's own dataset reads."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from data.exports import config, make_run
from pipeline.data.formats.sources import open_source, source_schema
from pipeline.export.export import export_rows


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


def test_a_folder_that_comes_later_changes_the_type() -> None:
    path = write("data/k=1/p.parquet", 1)
    assert open_source(path).read()["k"].to_pylist() == [1]
    assert open_source(write("data/k=x/p.parquet", 1)).read()["k"].to_pylist() == ["x"]
    assert open_source(path).read()["k"].to_pylist() == ["1"]


def test_only_the_nearest_folders_count() -> None:
    assert source_schema(write("run=7/data/k=1/p.parquet", 1)).names == ["x", "y", "k"]
    assert source_schema(write("run=7/data/p.parquet", 1)).names == ["x", "y"]


def labelled(suffix: str) -> list[str]:
    """Files in `label=…/part=…` with ids, three rows in each."""
    paths = []
    for place, folder in enumerate(("label=a/part=1", "label=b%20c/part=1", "label=a/part=2")):
        Path("data", folder).mkdir(parents=True)
        paths.append(f"data/{folder}/p{suffix}")
        rows = pa.table({"id": range(3 * place, 3 * place + 3)})
        if suffix == ".csv":
            pyarrow.csv.write_csv(rows, paths[-1])
        else:
            pq.write_table(rows, paths[-1])
    return paths


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_row_with_another_label_moves_to_its_folder(suffix: str) -> None:
    paths = labelled(suffix)
    decided = {
        (paths[0], 1): ("relabel", "b c"),
        (paths[1], 0): ("relabel", "a"),
        (paths[2], 2): ("remove", None),
    }
    run = make_run(paths, decided)
    export_rows(run, config())
    wanted = {(0, "a"), (1, "b c"), (2, "a"), (3, "a"), (4, "b c"), (5, "b c"), (6, "a"), (7, "a")}
    given = ds.dataset(run / "cleaned_as_given", format=suffix[1:], partitioning="hive").to_table()
    assert {(row["id"], row["label"]) for row in given.to_pylist()} == wanted
    assert set(given["part"].to_pylist()) == {1, 2}
    cleaned = pq.ParquetDataset(run / "cleaned").read()
    assert {(row["id"], row["label"]) for row in cleaned.to_pylist()} == wanted
    assert [file["rows_kept"] for file in json.loads((run / "cleaned.json").read_text())["files"]] == [
        3,
        3,
        2,
    ]


def test_other_keys_stay_in_the_names_of_folders() -> None:
    for day in (1, 2):
        Path(f"data/day={day}").mkdir(parents=True)
        Path(f"data/day={day}/p{day}.csv").write_text("id,label\n1,a\n2,b\n")
        pq.write_table(pa.table({"id": [1, 2], "label": ["a", "b"]}), f"data/day={day}/p{day}.parquet")
    paths = [f"data/day={day}/p{day}.{end}" for day in (1, 2) for end in ("csv", "parquet")]
    run = make_run(paths, {(path, 0): ("relabel", "b") for path in paths})
    export_rows(run, config())
    assert (run / "cleaned_as_given/day=2/p2.csv").read_text() == "id,label\n1,b\n2,b\n"
    source = pq.read_schema(paths[1])
    assert pq.ParquetFile(run / "cleaned/day=1/p1.parquet").schema_arrow.equals(source)
    assert pq.ParquetFile(run / "cleaned/day=1/p1.csv.parquet").read()["label"].to_pylist() == ["b", "b"]
