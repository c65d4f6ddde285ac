from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.files import Shard
from pipeline.data.problems import Problems
from pipeline.errors import InputError
from pipeline.features.faults import fault_where

SHARDS = [Shard(i, f"{name}.parquet", None, pa.schema([]), (9000,), 0, 0) for i, name in enumerate("ab")]


def fault(places: list[int], what: str = "is null", hint: str = "Fill it in."):
    return fault_where(np.isin(np.arange(10), places), what, hint)


def test_the_first_row_is_named_and_the_rest_counted():
    problems = Problems()
    problems.add(SHARDS[0], np.arange(8110, 8120), "label", fault([3, 5]))
    problems.add(SHARDS[0], np.arange(8120, 8130), "label", fault([0]))
    problems.add(SHARDS[1], np.arange(10), "label", fault([0, 1, 2, 3]))
    with pytest.raises(InputError) as caught:
        problems.raise_first()
    assert caught.value.message == "a.parquet, row 8,113: label is null"
    assert caught.value.hint == "Fill it in.\n  (2 more rows in this file, 4 in the others)"


def test_the_earliest_problem_comes_first_and_others_follow():
    problems = Problems()
    problems.add(SHARDS[0], np.arange(10), "column 'x'", fault([4]))
    problems.add(SHARDS[0], np.arange(10), "column 'y'", fault([2, 3], "is nan"))
    with pytest.raises(InputError) as caught:
        problems.raise_first()
    assert caught.value.message == "a.parquet, row 2: column 'y' is nan"
    assert caught.value.hint is not None
    assert caught.value.hint.splitlines()[1:] == [
        "  (1 more row in this file, 0 in the others)",
        "  also: a.parquet, row 4: column 'x' is null",
    ]


def test_nothing_is_raised_without_problems():
    problems = Problems()
    problems.add(SHARDS[0], np.arange(10), "label", fault([]))
    assert not problems
    problems.raise_first()
