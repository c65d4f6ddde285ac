from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.detection import table as module
from pipeline.detection.table import ColumnReader, in_parts, with_labels


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 10)


@pytest.mark.parametrize("sizes", [[3, 4, 30, 1], [10, 10], [5], [25]])
def test_parts_have_all_rows_in_order_and_the_same_size_but_the_last(sizes: list[int]) -> None:
    numbers = iter(range(sum(sizes)))
    tables = [pa.table({"x": [next(numbers) for _ in range(size)]}) for size in sizes]
    parts = list(in_parts(tables))
    assert pa.concat_tables(parts)["x"].to_pylist() == list(range(sum(sizes)))
    assert all(part.num_rows == 10 for part in parts[:-1])
    assert 1 <= parts[-1].num_rows <= 10


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_column_is_read_forwards_at_the_rows_asked_for(tmp_path: Path, dictionary: bool) -> None:
    values = pa.array([f"class {row % 7}" for row in range(95)])
    column = values.dictionary_encode() if dictionary else values
    pq.write_table(pa.table({"label": column}), tmp_path / "shard.parquet", row_group_size=33)
    rows = np.flatnonzero(np.random.default_rng(0).random(95) < 0.6)
    reader = ColumnReader(str(tmp_path / "shard.parquet"), "label")
    found = [reader.take(rows[start : start + 8]).to_pylist() for start in range(0, len(rows), 8)]
    assert [value for part in found for value in part] == values.take(pa.array(rows)).to_pylist()


def test_labels_are_those_of_each_rows_shard(tmp_path: Path) -> None:
    shards = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    for number, shard in enumerate(shards):
        pq.write_table(pa.table({"y": [100 * number + row for row in range(40)]}), shard)
    places = [(shards[0], [0, 5, 39]), (shards[1], [2, 3]), (shards[1], [17])]
    catalog = [pa.table({"shard": [shard] * len(rows), "row": rows}) for shard, rows in places]
    labels = [table["label"].to_pylist() for table in with_labels(catalog, "y")]
    assert labels == [[0, 5, 39], [102, 103], [117]]
