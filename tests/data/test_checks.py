from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Data
from pipeline.data.checks import check_keys, check_roles, content_in_two_roles, duplicates
from pipeline.data.files import SourceFile, open_shard
from pipeline.data.survey import ShardRows
from pipeline.errors import InputError

from .small import run_prepare, write


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepare_keys(train: list, holdout: list | None = None, **data: object) -> InputError:
    for name, keys in (("train", train), ("holdout", holdout)):
        if keys is not None:
            labels = [i % 2 for i in range(len(keys))]
            write(f"{name}.parquet", {"x": range(len(keys)), "label": labels, "id": keys}, 2)
    paths = {"train": "train.parquet"} | ({"holdout": "holdout.parquet"} if holdout else {})
    with pytest.raises(InputError) as caught:
        run_prepare(Path("run"), 3, **paths, key="id", **data)
    return caught.value


def test_a_key_that_occurs_twice_is_named_with_both_rows():
    error = prepare_keys(["a", "b", "c", "d", "b", "d"])
    assert error.message == "train.parquet, row 4: key 'b' is also that of train.parquet, row 1 (both train)"
    assert "1 more repeated key" in str(error)


def test_a_row_in_two_roles_is_named_with_both():
    error = prepare_keys([1, 2, 3, 4], [7, 8, 3, 9])
    assert (
        error.message
        == "holdout.parquet, row 2: key '3' is also that of train.parquet, row 2 (holdout and train)"
    )


def test_keys_of_rows_without_a_role_do_not_count():
    write("a.parquet", {"x": range(5), "label": [0, 1, 0, 1, None], "id": [1, 2, 3, 4, 1]})
    prepared = run_prepare(Path("run"), train="a.parquet", key="id", missing_label="drop")
    assert prepared.catalog()["row_key"] == ["1", "2", "3", "4"]


def test_equal_hashes_of_different_keys_are_no_duplicate():
    shard = ShardRows(open_shard(0, SourceFile(write("a.parquet", {"id": ["p", "q"]}), "train")))
    shard.roles[:] = 0
    shard.ids[:] = 5
    data = Data.model_validate({"train": "t", "features": {"x": "auto"}, "label": "y", "key": "id"})
    check_keys(data, [shard])
    write("a.parquet", {"id": ["p", "p"]})
    with pytest.raises(InputError, match="key 'p'"):
        check_keys(data, [shard])


@pytest.mark.parametrize(
    ("data", "counts", "missing"),
    [
        ({"validation": "v"}, (5, 0, 0), "validation"),
        ({"holdout": "h"}, (5, 3, 0), "holdout"),
        ({}, (0, 0, 0), "train"),
        ({"split": {"fractions": [0.8, 0.1, 0.1]}}, (5, 1, 0), "holdout"),
        ({"split": {"column": "s"}}, (0, 2, 2), "train"),
    ],
)
def test_a_role_that_was_asked_for_needs_rows(data, counts, missing):
    config = Data.model_validate({"train": "t", "features": {"x": "auto"}, "label": "y"} | data)
    with pytest.raises(InputError, match=f"no {missing} rows"):
        check_roles(config, dict(zip(("train", "validation", "holdout"), counts)))


@pytest.mark.parametrize("data", [{}, {"split": {"fractions": [0.8, 0.2, 0]}}, {"split": {"column": "s"}}])
def test_a_role_that_was_not_asked_for_needs_none(data):
    config = Data.model_validate({"train": "t", "features": {"x": "auto"}, "label": "y"} | data)
    check_roles(config, {"train": 5, "validation": 1, "holdout": 0})


def test_a_file_without_rows_for_a_role_is_an_error():
    write("train.parquet", {"x": [1, 2, 3, 4], "label": [0, 1, 0, 1]})
    write("holdout.parquet", {"x": np.array([], np.int64), "label": np.array([], np.int64)})
    with pytest.raises(InputError, match=r"no holdout rows \(4 train, 0 validation, 0 holdout\)"):
        run_prepare(Path("run"), train="train.parquet", holdout="holdout.parquet")


def shard_rows(features: list[int], labels: list[int], roles: list[int]) -> ShardRows:
    shard = ShardRows(open_shard(0, SourceFile(write("a.parquet", {"x": features}), None)))
    shard.features[:] = features
    shard.contents[:] = np.array(features) * 100 + labels
    shard.roles[:] = roles
    return shard


def test_duplicates_are_counted_within_train():
    shard = shard_rows([1, 1, 1, 2, 2, 3, 3, 3], [0, 0, 1, 5, 5, 7, 7, 7], [0, 0, 0, 0, 1, 0, 0, 0])
    # contents (1, 0) twice and (3, 7) three times; features 1 have the labels 0 and 1
    assert duplicates([shard]) == {"groups": 2, "rows": 5, "conflicting_rows": 3}


def test_contents_in_several_roles_are_counted_once_each():
    shard = shard_rows([1, 1, 1, 2, 2, 3, 3, 4], [0] * 8, [0, 1, 2, 1, 2, 0, 0, 2])
    assert content_in_two_roles([shard]) == 2
