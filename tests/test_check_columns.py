"""What `winnow check` says of single columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig
from pipeline.data.files import find_files, open_shards
from pipeline.data.prepare import create_encoding
from pipeline.preflight.columns import suspicious_features

ROWS = 200
RNG = np.random.default_rng(1)
LABEL = RNG.integers(0, 2, ROWS)
X = RNG.normal(size=ROWS)


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config(columns: dict, **data: object) -> AuditConfig:
    pq.write_table(pa.table(columns), "a.parquet")
    features = {name: "auto" for name in columns if name != "label"}
    tree = {"train": "a.parquet", "features": features, "label": "label", **data}
    return AuditConfig.model_validate({"name": "a", "data": tree})


def said(columns: dict) -> list[tuple[str, str]]:
    asked = config(columns)
    shards = open_shards(find_files(asked.data))
    return list(suspicious_features(shards, create_encoding(shards, asked)))


def test_features_that_number_rows_or_tell_the_label_are_warned_of():
    columns = {"__index_level_0__": X, "n": np.arange(ROWS), "leak": LABEL * 2.0, "x": X, "label": LABEL}
    found = said(columns)
    assert [text for text, _ in found] == [
        "__index_level_0__ is the index that pandas stored",
        "n has row numbers",
        "leak alone tells the label in 100.0 % of the rows",
    ]
    assert all(status.startswith("warning: ") and "data.features" in status for _, status in found)


def test_honest_features_are_not_warned_of():
    assert said({"x": X, "label": LABEL}) == []
