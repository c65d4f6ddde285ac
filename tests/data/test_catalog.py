from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data.catalog import SCHEMA, read_catalog, write_catalog
from pipeline.data.files import SourceFile, open_shard

from .small import write


@pytest.fixture
def shard(tmp_path):
    return open_shard(0, SourceFile(write(tmp_path / "a.parquet", {"x": range(5)}, 2), "train"))


def test_lines_come_back_as_written(tmp_path, shard):
    with write_catalog(tmp_path) as catalog:
        catalog.add(
            shard, np.array([1, 4]), ["k1", "k4"], np.array([1, -1]), np.array([2, 3]), np.array([0, 2])
        )
    assert read_catalog(tmp_path).to_pylist() == [
        {
            "row_key": "k1",
            "shard": shard.path,
            "row_group": 0,
            "row": 1,
            "content_hash": "0000000000000001",
            "features_hash": "0000000000000002",
            "split": "train",
        },
        {
            "row_key": "k4",
            "shard": shard.path,
            "row_group": 2,
            "row": 4,
            "content_hash": "ffffffffffffffff",
            "features_hash": "0000000000000003",
            "split": "holdout",
        },
    ]
    assert pq.read_schema(tmp_path / "catalog.parquet").equals(SCHEMA)


def test_a_role_and_columns_can_be_picked(tmp_path, shard):
    with write_catalog(tmp_path) as catalog:
        catalog.add(shard, np.arange(5), list("abcde"), np.arange(5), np.arange(5), np.array([0, 2, 0, 1, 0]))
    assert read_catalog(tmp_path, "train", ["row_key"]).to_pydict() == {"row_key": ["a", "c", "e"]}


def test_there_is_no_catalog_when_writing_fails(tmp_path):
    with pytest.raises(RuntimeError), write_catalog(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
