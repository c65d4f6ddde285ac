"""What the columns are: schemas compared across shards, kinds of features and the task detected."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.data.encoders import ENCODERS, Column
from pipeline.data.encoders.image import guess_layout, is_bytes, is_pixels
from pipeline.data.files import Shard
from pipeline.data.label_sets import is_set
from pipeline.errors import InputError

PEEK_ROWS = 1000  # rows that tell text from categories
TEXT_WORDS = 3  # a string column with more words per value than this is text


def used_columns(data: Data) -> list[str]:
    """The columns that are read, features in the order of the config."""
    split = data.split.column if data.split else None
    names = [*data.features, data.label, data.key, data.weight, split]
    return list(dict.fromkeys(name for name in names if name))


def value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def check_schemas(shards: Sequence[Shard], data: Data) -> None:
    """Raises InputError for a configured column that a shard lacks, or has with another type."""
    names = used_columns(data) + data.group + data.slices
    for shard in shards:
        for name in names:
            check_column(shard, shards[0], name)


def check_column(shard: Shard, first: Shard, name: str) -> None:
    if shard.schema.names.count(name) > 1:
        raise InputError(f"{shard.path}: column {name!r} is there twice", "Rename one of the two.")
    if name not in shard.schema.names:
        close = difflib.get_close_matches(name, shard.schema.names, n=1)
        known = ", ".join(shard.schema.names[:20])
        raise InputError(
            f"{shard.path}: no column {name!r}",
            f"Did you mean {close[0]!r}?" if close else f"Its columns: {known}.",
        )
    here, there = shard.schema.field(name), first.schema.field(name)
    if value_type(here.type) != value_type(there.type):
        raise InputError(
            f"{shard.path}: column {name!r} is {here.type}, in {first.path} it is {there.type}",
            "Give the column one type in all shards.",
        )
    if is_pixels(here.type) and image_metadata(shard, name) != image_metadata(first, name):
        raise InputError(
            f"{shard.path}: column {name!r} has the image shape {image_metadata(shard, name)[0]}, "
            f"in {first.path} {image_metadata(first, name)[0]}",
            "Give the images one shape in all shards.",
        )


def feature_columns(shards: Sequence[Shard], data: Data) -> list[Column]:
    """The features with their kinds; `auto` is resolved by type and, for strings, by the first rows.

    Raises InputError for a type that the kind can't encode and for a second image or text column.
    """
    columns = [feature_column(shards, name, kind) for name, kind in data.features.items()]
    for kind in ("image", "text"):
        names = [column.name for column in columns if column.kind == kind]
        if len(names) > 1:
            raise InputError(
                f"data.features: {names[0]!r} and {names[1]!r} are both of the kind {kind}, one is possible",
                "Leave one out, or join them into one column.",
            )
    return columns


def feature_column(shards: Sequence[Shard], name: str, kind: str) -> Column:
    first = shards[0]
    arrow_type = value_type(first.schema.field(name).type)
    shape, layout = image_metadata(first, name)
    if kind == "auto":
        kind = detect_kind(shards, name, shape)
    if not ENCODERS[kind].supports(arrow_type):
        fitting = [word for word, encoder in ENCODERS.items() if encoder.supports(arrow_type)]
        hint = f"Possible kinds: {', '.join(fitting)}." if fitting else "Convert it, or leave it out."
        raise InputError(f"{first.path}: column {name!r} is {arrow_type}, which is no {kind}", hint)
    if kind == "image" and is_pixels(arrow_type) and shape and math.prod(shape) != arrow_type.list_size:
        raise InputError(
            f"{first.path}: column {name!r} has {arrow_type.list_size} pixels, by its metadata {list(shape)}",
            "Correct image_shape in the schema's metadata.",
        )
    return Column(name, arrow_type, kind, shape, layout)


def detect_kind(shards: Sequence[Shard], name: str, image_shape: tuple[int, ...] | None) -> str:
    """The kind of a column under `auto`. Raises InputError when no kind fits its type."""
    field_type = shards[0].schema.field(name).type
    kind = value_type(field_type)
    if is_pixels(kind):
        return "image" if image_shape and math.prod(image_shape) == kind.list_size else "list"
    if is_bytes(kind):
        return "image"
    if pa.types.is_dictionary(field_type) and ENCODERS["category"].supports(kind):
        return "category"
    if ENCODERS["text"].supports(kind):
        return "text" if mean_words(shards, name) > TEXT_WORDS else "category"
    for word in ("list", "numeric", "boolean"):
        if ENCODERS[word].supports(kind):
            return word
    raise InputError(
        f"{shards[0].path}: column {name!r} is {kind}, which no kind of feature takes",
        "Convert it to numbers, text or images, or leave it out of data.features.",
    )


def mean_words(shards: Sequence[Shard], name: str) -> float:
    """Mean number of words of the values in the first rows that there are."""
    for shard in shards:
        with pq.ParquetFile(shard.path) as parquet:
            for batch in parquet.iter_batches(PEEK_ROWS, columns=[name]):
                values = [value for value in batch.column(0).to_pylist() if value is not None]
                if values:
                    return float(np.mean([len(value.split()) for value in values]))
    return 0.0


def image_metadata(shard: Shard, name: str) -> tuple[tuple[int, ...] | None, str | None]:
    """Shape (`[28, 28]`, `28,28`) and layout (HW, HWC, CHW) from the field's metadata, else the schema's."""
    schema, field = shard.schema.metadata or {}, shard.schema.field(name).metadata or {}
    text = field.get(b"shape") or field.get(b"image_shape") or schema.get(b"image_shape")
    layout = field.get(b"layout") or field.get(b"image_layout") or schema.get(b"image_layout")
    if text is None:
        return None, None
    shape = tuple(int(part) for part in re.findall(r"\d+", text.decode(errors="replace")))
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(
            f"{shard.path}: image_shape in the metadata of {name!r} is {text.decode(errors='replace')!r}",
            "Write it as [height, width] or [height, width, channels].",
        )
    word = layout.decode(errors="replace").upper() if layout else guess_layout(shape)
    if sorted(word) != sorted("HW" if len(shape) == 2 else "HWC") or word not in ("HW", "HWC", "CHW"):
        raise InputError(
            f"{shard.path}: image_layout {word!r} does not fit the shape {list(shape)}",
            "Possible layouts: HW for two numbers, HWC or CHW for three.",
        )
    return shape, word


def detect_task(shards: Sequence[Shard], data: Data) -> str:
    """classification, regression or multilabel. Raises InputError when the label's type doesn't fit the task."""
    kind = value_type(shards[0].schema.field(data.label).type)
    if is_set(kind) and data.task in ("auto", "multilabel"):
        return "multilabel"
    if data.task == "multilabel":
        raise InputError(
            f"{shards[0].path}: label column {data.label!r} is {kind}, which holds no sets of labels",
            "Make it a column of lists of strings or integers, or leave data.task out.",
        )
    is_number = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    is_class = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or ENCODERS["text"].supports(kind)
    if not (is_number or is_class):
        raise InputError(
            f"{shards[0].path}: label column {data.label!r} is {kind}",
            "A label is an integer, a string or a boolean (classes), a float (regression) or a list of strings "
            "(multilabel): convert it.",
        )
    task = ("regression" if is_number else "classification") if data.task == "auto" else data.task
    if task == "classification" and is_number:
        raise InputError(
            f"{shards[0].path}: label column {data.label!r} is {kind}, which can't be a class",
            "Convert it to integers or strings, or set data.task: regression.",
        )
    if task == "regression" and not (is_number or pa.types.is_integer(kind)):
        raise InputError(
            f"{shards[0].path}: label column {data.label!r} is {kind}, which can't be a regression target",
            "Convert it to float, or set data.task: classification.",
        )
    return task


def check_other_columns(shards: Sequence[Shard], data: Data) -> None:
    """Raises InputError when the key, weight or split column has a type that can't serve."""
    schema = shards[0].schema
    number, category = ENCODERS["numeric"].supports, ENCODERS["category"].supports
    split = data.split.column if data.split else None
    for name, fits, words in (
        (data.key, category, "key: integers or strings"),
        (data.weight, number, "weight: numbers"),
        (split, category, "split column: strings or integers"),
    ):
        kind = value_type(schema.field(name).type) if name else None
        if kind is not None and not fits(kind):
            raise InputError(f"{shards[0].path}: column {name!r} is {kind}", f"For a {words}: convert it.")
