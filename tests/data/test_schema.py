from __future__ import annotations

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from pipeline.config import Data
from pipeline.data.files import SourceFile, open_shards
from pipeline.data.schema import (
    check_other_columns,
    check_schemas,
    detect_task,
    feature_columns,
    used_columns,
)
from pipeline.errors import InputError
from pipeline.features.encoder import Column
from pipeline.features.pictures import stored_shape

from .small import write


def data(**changes: object) -> Data:
    return Data.model_validate({"train": "t", "features": {"x": "auto"}, "label": "label"} | changes)


def shards(tmp_path, *tables: dict | pa.Table):
    paths = [write(tmp_path / f"{i}.parquet", table) for i, table in enumerate(tables)]
    return open_shards([SourceFile(path, "train") for path in paths])


def feature(tmp_path, column: pa.Array | list, kind: str = "auto", metadata: dict | None = None) -> Column:
    table = pa.table({"x": column, "label": [0] * len(column)}).replace_schema_metadata(metadata)
    (found,) = feature_columns(shards(tmp_path, table), data(features={"x": kind}))
    return found


IMAGE = pa.array([[0] * 12], pa.list_(pa.uint8(), 12))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2]), "numeric"),
        (pa.array([0.5]), "numeric"),
        (pa.array([1], pa.decimal128(5, 2)), "numeric"),
        (pa.array([True]), "boolean"),
        (pa.array(["red", "dark blue", None]), "category"),
        (pa.array(["what a long and winding road"]), "text"),
        (pa.array(["what a long and winding road"]).dictionary_encode(), "category"),
        (pa.array([[1.0, 2.0]]), "list"),
        (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), "list"),
        (IMAGE, "list"),
        (pa.array([b"png"]), "image"),
        (pa.array([{"bytes": b"png", "path": "a"}]), "image"),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_auto_takes_the_kind_from_the_type(tmp_path, column, kind):
    assert feature(tmp_path, column).kind == kind


@pytest.mark.parametrize("text", ["[2, 2, 3]", "2,2,3"])
def test_pixels_with_a_shape_in_the_metadata_are_an_image(tmp_path, text):
    found = feature(tmp_path, IMAGE, metadata={"image_shape": text})
    assert (found.kind, stored_shape(found)) == ("image", ((2, 2, 3), "HWC"))


def test_the_metadata_of_the_field_come_first(tmp_path):
    field = pa.field("x", IMAGE.type, metadata={"shape": "[3, 2, 2]", "layout": "CHW"})
    schema = pa.schema(
        [field, ("label", pa.int64())], metadata={"image_shape": "[4, 3]", "image_layout": "HW"}
    )
    table = pa.table([IMAGE, pa.array([0])], schema=schema)
    (found,) = feature_columns(shards(tmp_path, table), data())
    assert stored_shape(found) == ((3, 2, 2), "CHW")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"image_shape": "[5, 5]"}, r"12 pixels, by its metadata \[5, 5\]"),
        ({"image_shape": "square"}, "image_shape in the metadata of 'x' is 'square'"),
        (
            {"image_shape": "[3, 4]", "image_layout": "HWC"},
            r"image_layout 'HWC' does not fit the shape \[3, 4\]",
        ),
    ],
)
def test_wrong_image_metadata_are_an_error(tmp_path, metadata, words):
    with pytest.raises(InputError, match=words):
        feature(tmp_path, IMAGE, "image", metadata)


def test_a_type_that_no_kind_takes_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"0\.parquet: column 'x' is timestamp\[us\], which no kind"):
        feature(tmp_path, pa.array([datetime.datetime(2026, 1, 1)]))


def test_a_type_that_the_kind_does_not_take_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"0\.parquet: column 'x' is string, which is no numeric") as caught:
        feature(tmp_path, pa.array(["a"]), "numeric")
    assert caught.value.hint == "Possible kinds: category, image, text."


def test_two_images_are_an_error_and_two_texts_are_not(tmp_path):
    table = {"a": ["x"], "b": ["y"], "label": [0]}
    with pytest.raises(InputError, match="'a' and 'b' are both of the kind image"):
        feature_columns(shards(tmp_path, table), data(features={"a": "image", "b": "image"}))
    found = feature_columns(shards(tmp_path, table), data(features={"a": "text", "b": "text"}))
    assert [(column.name, column.kind) for column in found] == [("a", "text"), ("b", "text")]


def test_columns_that_are_not_used_may_differ(tmp_path):
    check_schemas(shards(tmp_path, {"x": [1], "label": [0], "note": ["a"]}, {"label": [0], "x": [1]}), data())


def test_dictionary_encoding_is_no_difference(tmp_path):
    plain = pa.array(["a"])
    check_schemas(
        shards(tmp_path, {"x": plain, "label": [0]}, {"x": plain.dictionary_encode(), "label": [0]}), data()
    )


def test_a_column_with_two_types_is_named_with_both(tmp_path):
    with pytest.raises(InputError, match=r"1\.parquet: column 'x' is string, in .*0\.parquet it is int64"):
        check_schemas(shards(tmp_path, {"x": [1], "label": [0]}, {"x": ["a"], "label": [0]}), data())


def test_images_of_two_shapes_are_an_error(tmp_path):
    tables = [
        pa.table({"x": IMAGE, "label": [0]}).replace_schema_metadata({"image_shape": shape})
        for shape in ("[3, 4]", "[4, 3]")
    ]
    with pytest.raises(InputError, match=r"1\.parquet: column 'x' has the image shape \(4, 3\)"):
        check_schemas(shards(tmp_path, *tables), data())


def test_an_unknown_column_comes_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"0\.parquet: no column 'lable'") as caught:
        check_schemas(shards(tmp_path, {"x": [1], "label": [0]}), data(label="lable"))
    assert caught.value.hint == "Did you mean 'label'?"


def test_an_unknown_column_comes_with_all_when_none_is_near(tmp_path):
    with pytest.raises(InputError) as caught:
        check_schemas(shards(tmp_path, {"x": [1], "label": [0]}), data(group="zzz"))
    assert caught.value.hint == "Its columns: x, label."


@pytest.mark.parametrize(
    ("label", "asked", "task"),
    [
        (pa.array([1]), "auto", "classification"),
        (pa.array(["a"]), "auto", "classification"),
        (pa.array(["a"]).dictionary_encode(), "auto", "classification"),
        (pa.array([True]), "auto", "classification"),
        (pa.array([0.5]), "auto", "regression"),
        (pa.array([["a"]]), "auto", "multilabel"),
        (pa.array([[1]]), "multilabel", "multilabel"),
        (pa.array([1]), "regression", "regression"),
    ],
)
def test_the_task_follows_the_label(tmp_path, label, asked, task):
    assert detect_task(shards(tmp_path, {"x": [1], "label": label}), data(task=asked)) == task


@pytest.mark.parametrize(
    ("label", "asked", "words"),
    [
        (pa.array([Decimal("0.5")]), "classification", "which can't be a class"),
        (pa.array(["a"]), "regression", "string, which can't be a regression target"),
        (pa.array([[0.5]]), "auto", "label column 'label' is list"),
        (pa.array([[1]]), "classification", "label column 'label' is list"),
    ],
)
def test_a_label_that_does_not_fit_the_task_is_an_error(tmp_path, label, asked, words):
    with pytest.raises(InputError, match=words):
        detect_task(shards(tmp_path, {"x": [1], "label": label}), data(task=asked))


@pytest.mark.parametrize(
    "changes",
    [{"key": "bad"}, {"weight": "bad"}, {"split": {"column": "bad"}}],
    ids=["key", "weight", "split"],
)
def test_key_weight_and_split_need_a_fitting_type(tmp_path, changes):
    table = {"x": [1], "label": [0], "bad": pa.array([[1.0]])}
    with pytest.raises(InputError, match=r"column 'bad' is list<"):
        check_other_columns(shards(tmp_path, table), data(**changes))


def test_used_columns_are_those_of_the_config_once():
    names = used_columns(
        data(features={"b": "auto", "a": "auto"}, key="k", weight="w", split={"column": "s"})
    )
    assert names == ["b", "a", "label", "k", "w", "s"]
