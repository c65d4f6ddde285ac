"""What `winnow check` says of single columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import AuditConfig
from pipeline.data.files import find_files, open_shards
from pipeline.data.prepare import create_encoding, survey_rows
from pipeline.preflight.columns import odd_labels, suspicious_features
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory
from pipeline.workers.cluster import Workers

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


def lines_about_labels(labels: list, **data: object) -> list[tuple[str, str]]:
    asked = config({"x": RNG.normal(size=len(labels)), "label": labels}, **data)
    context = AuditContext(asked, RunDirectory(Path("run")), Workers(asked.compute))
    shards = open_shards(find_files(asked.data))
    return list(odd_labels(survey_rows(shards, create_encoding(shards, asked), context)))


def test_spellings_an_empty_label_and_rare_classes_are_warned_of():
    labels = ["no", "yes", "No ", ""] * 10 + ["perhaps"]
    (spelled, hint), (empty, null), (rare, _) = lines_about_labels(labels)
    assert spelled == "'No ' = 'no': equal but for blanks, case or Unicode form"
    assert "data.merge_spellings: true" in hint
    assert empty == "an empty label is a class"
    assert "null" in null
    assert rare.startswith("1 row of classes with fewer than two train rows ('perhaps')")
    merged = lines_about_labels(labels[:-1], merge_spellings=True)
    assert merged[0] == ("'No ' = 'no': one class each", "ok")
    assert lines_about_labels(["a", "b"] * 5) == []


def test_whole_numbers_that_a_float_cannot_hold_are_warned_of():
    large = 2**60 + RNG.integers(0, 10**9, ROWS)
    asked = config({"large": large, "x": X, "label": LABEL})
    shards = open_shards(find_files(asked.data))
    context = AuditContext(asked, RunDirectory(Path("run")), Workers(asked.compute))
    encoding = survey_rows(shards, create_encoding(shards, asked), context).encoding
    ((text, status),) = suspicious_features(shards, encoding)
    assert text.startswith("large has whole numbers above 2^53")
    assert "data.features" in status
