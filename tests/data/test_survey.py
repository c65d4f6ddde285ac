"""Rows that are wrong: the message names file, row and column and counts the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import InputError

from .small import run_prepare, write

GOOD = {"x": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "label": [0, 1, 0, 1, 0, 1]}


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def error_of(columns: dict, **data: object) -> InputError:
    """What preparing `bad.parquet` raises, with these columns over the good ones."""
    write("bad.parquet", GOOD | columns, 4)
    with pytest.raises(InputError) as caught:
        run_prepare(Path("run"), 2, **{"train": "bad.parquet"} | data)
    assert not Path("run/catalog.parquet").exists()
    return caught.value


def test_the_rest_is_counted_in_this_file_and_in_the_others():
    write("d/1.parquet", GOOD)
    write("d/2.parquet", GOOD | {"label": [0, 1, None, None, None, 0]})
    write("d/3.parquet", GOOD | {"label": [0, 1, None, 1, None, 0]})
    error = error_of({}, train="d")
    assert error.message == "d/2.parquet, row 2: label is null"
    assert error.hint == (
        "The label column may not have nulls. Drop the row, or set data.missing_label: drop.\n"
        "  (2 more rows in this file, 2 in the others)"
    )


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"label": [0.5, 1, 2, float("nan"), 4, 5]}, {}, "row 3: label is NaN"),
        ({"label": [0.5, 1, 2, float("inf"), 4, 5]}, {"missing_label": "drop"}, "row 3: label is infinite"),
        ({"x": [1, 2, None, 4, 5, 6]}, {}, "row 2: column 'x' is null"),
        ({"x": [1, 2, 3, 4, float("nan"), 6]}, {}, "row 4: column 'x' is nan"),
        ({"x": [1, float("-inf"), 3, 4, 5, 6]}, {}, "row 1: column 'x' is -inf"),
        (
            {"x": [[1.0], [2.0], [3.0], [], [5.0], [6.0]]},
            {},
            "row 3: column 'x' has 0 elements, the first row has 1",
        ),
        (
            {"x": [b"not an image"] * 6},
            {},
            "row 0: column 'x' does not decode as an image (UnidentifiedImageError)",
        ),
        ({"w": [1.0, 2, 3, 4, -5, 6]}, {"weight": "w"}, "row 4: weight 'w' is -5.0"),
        ({"w": [1.0, 2, 3, float("nan"), 5, 6]}, {"weight": "w"}, "row 3: weight 'w' is nan"),
        ({"id": ["a", "b", "c", None, "e", "f"]}, {"key": "id"}, "row 3: key 'id' is null"),
        (
            {"s": ["train", "train", "test", "train", "train", "train"]},
            {"split": {"column": "s"}},
            "row 2: split column 's' is 'test', which names no role",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_row(columns, data, message):
    error = error_of(columns, **data)
    assert error.message == f"bad.parquet, {message}"
    assert error.hint


def test_the_label_column_is_named_when_it_has_another_name():
    assert (
        error_of({"mood": [1, None, 0, 1, 0, 1]}, label="mood").message
        == "bad.parquet, row 1: label 'mood' is null"
    )


def test_problems_of_other_kinds_are_listed_too():
    error = error_of({"x": [1, 2, 3, None, None, 6], "label": [0, 1, None, 1, 0, 1]})
    assert error.message == "bad.parquet, row 2: label is null"
    assert "also: bad.parquet, row 3: column 'x' is null (1 more)" in str(error)


def test_rows_after_dropped_ones_keep_their_number():
    error = error_of({"label": [None, 0, None, 1, 0, 1], "x": [1, 2, 3, 4, None, 6]}, missing_label="drop")
    assert error.message == "bad.parquet, row 4: column 'x' is null"


def test_a_wrong_row_in_validation_is_found_too():
    write("good.parquet", GOOD)
    error = error_of({"x": [1.0, 2, 3, 4, 5, None]}, train="good.parquet", validation="bad.parquet")
    assert error.message == "bad.parquet, row 5: column 'x' is null"


def test_a_label_that_train_lacks_is_named_with_its_row():
    write("good.parquet", GOOD)
    error = error_of({"label": [0, 1, 0, 7, 7, 1]}, train="good.parquet", holdout="bad.parquet")
    assert error.message == "bad.parquet, row 3: the holdout label 7 does not occur in train"
    assert "1 more holdout row" in str(error)


def test_a_class_of_one_row_is_named_with_its_row():
    error = error_of({"label": ["a", "b", "c", "a", "b", "d"]})
    assert error.message == "bad.parquet, row 2: the only train row of the class 'c'"
    assert "classes with one row: 2 of 4" in str(error)


def test_a_single_class_is_an_error():
    assert error_of({"label": [3] * 6}).message == "label 'label': every train row has the label 3"


def test_images_of_two_sizes_are_named_by_row_and_sizes():
    from features.test_image import encoded_bytes

    images = [encoded_bytes(np.zeros((4, 5 + (i == 3)), np.uint8)) for i in range(6)]
    error = error_of({"x": pa.array(images)})
    assert error.message.startswith("bad.parquet, row 3: column 'x' is 6×4 pixels")
    assert error.message.endswith("the first one is 5×4 pixels with 1 channel")
