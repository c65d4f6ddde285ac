"""What the columns are: schemas compared across shards, kinds of features and the task detected."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import pyarrow as pa

from pipeline.config import Data
from pipeline.data.files import Shard
from pipeline.data.formats.sources import open_source
from pipeline.errors import InputError
from pipeline.features.arrow import is_categorical, is_numeric, plain, value_type
from pipeline.features.encoder import Column, Encoder
from pipeline.features.registry import built_in, find_kind
from pipeline.tasks.registry import TASKS

PEEK_ROWS = 1000  # rows that tell text from categories
Made = TypeVar("Made")


def used_columns(data: Data) -> list[str]:
    """The columns that are read, features in the order of the config."""
    split = data.split.column if data.split else None
    names = [*data.features, data.label, data.key, data.weight, split]
    return list(dict.fromkeys(name for name in names if name))


def check_schemas(shards: Sequence[Shard], data: Data) -> None:
    """Raises InputError for a configured column that a shard lacks, or has with another type."""
    names = used_columns(data) + data.group + data.slices + data.evidence_columns
    for shard in shards:
        for name in names:
            _check_column(shard, shards[0], name, data.features.get(name, ""))


def _check_column(shard: Shard, first: Shard, name: str, asked: str) -> None:
    """asked: the kind of a feature by the config; empty for other columns."""
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
    column, model = _column_of(shard, name), _column_of(first, name)
    for kind in _kinds_of(asked, column.type) if asked else []:
        found, wanted = (
            _said_of(each, partial(kind.stored_as, of)) for each, of in ((shard, column), (first, model))
        )
        if found != wanted:
            raise InputError(
                f"{shard.path}: column {name!r} has {found}, in {first.path} {wanted}",
                "Give the column one shape in all shards.",
            )


def _kinds_of(asked: str, kind: pa.DataType) -> list[type[Encoder]]:
    """The kinds that a column of this type may become; asked: the config's word, `auto` for any built-in one."""
    kinds = built_in().values() if asked == "auto" else [find_kind(asked)]
    return [each for each in kinds if each.supports(kind)]


def _column_of(shard: Shard, name: str) -> Column:
    """A column that can be read from the shard on."""
    return Column.of(shard.schema, name, partial(_first_values, [shard], name))


def _first_values(shards: Sequence[Shard], name: str) -> Iterator[pa.Array]:
    """The values of a column, some at a time, without dictionary encoding."""
    for shard in shards:
        with open_source(shard.path) as parquet:
            for batch in parquet.iter_batches(PEEK_ROWS, columns=[name]):
                yield plain(batch.column(0))


def _said_of(shard: Shard, work: Callable[[], Made]) -> Made:
    """`work()`; what is wrong is said of the shard."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{shard.path}: {error.message}", error.hint) from None


def feature_columns(shards: Sequence[Shard], data: Data) -> list[Column]:
    """The features with their kinds; `auto` is resolved by type and, for strings, by the first rows.

    Raises InputError for a type that the kind can't encode and for a second image or text column.
    """
    columns = [_feature_column(shards, name, data) for name in data.features]
    alone: dict[str, Column] = {}
    for column in columns:
        into = find_kind(column.kind).input
        other = alone.setdefault(into.name, column)
        if other is not column and not into.joins:
            kinds = f"both of the kind {column.kind}"
            if other.kind != column.kind:
                kinds = f"of the kinds {other.kind} and {column.kind}, which are both {into.name} for a model"
            raise InputError(
                f"data.features: {other.name!r} and {column.name!r} are {kinds}, one is possible",
                "Leave one out, or join them into one column.",
            )
    return columns


def _feature_column(shards: Sequence[Shard], name: str, data: Data) -> Column:
    first, kind = shards[0], data.features[name]
    column = replace(_column_of(first, name), values=partial(_first_values, shards, name))
    if kind == "auto":
        kind = _said_of(first, partial(_detect_kind, column))
    encoder = find_kind(kind)
    if not encoder.supports(column.type):
        fitting = [word for word, each in built_in().items() if each.supports(column.type)]
        hint = f"Possible kinds: {', '.join(fitting)}." if fitting else "Convert it, or leave it out."
        raise InputError(f"{first.path}: column {name!r} is {column.type}, which is no {kind}", hint)
    _said_of(first, partial(encoder.create, column, data))
    return replace(column, kind=kind)


def _detect_kind(column: Column) -> str:
    """The kind of a column under `auto`. Raises InputError when no kind fits its type."""
    for word, kind in built_in().items():
        if kind.supports(column.type) and kind.recognises(column):
            return word
    raise InputError(
        f"column {column.name!r} is {column.type}, which no kind of feature takes",
        "Convert it to numbers, text or images, or leave it out of data.features.",
    )


def detect_task(shards: Sequence[Shard], data: Data) -> str:
    """classification, regression or multilabel. Raises InputError when the label's type doesn't fit the task."""
    kind = value_type(shards[0].schema.field(data.label).type)
    found = next((task for task in TASKS.values() if task.recognises(kind)), None)
    if data.task == "auto" and found is not None:
        return found.name
    asked = TASKS.get(data.task)
    if asked is not None and asked.takes(kind):
        return asked.name
    what = f"{shards[0].path}: label column {data.label!r} is {kind}"
    if asked is None or found is None:
        raise InputError(
            what,
            "A label is an integer, a string or a boolean (classes), a float (regression) or a list of strings "
            "(multilabel): convert it.",
        )
    why, hint = asked.refusal
    raise InputError(f"{what}, which {why}", hint)


def check_other_columns(shards: Sequence[Shard], data: Data) -> None:
    """Raises InputError when the key, weight or split column has a type that can't serve."""
    schema = shards[0].schema
    split = data.split.column if data.split else None
    for name, fits, words in (
        (data.key, is_categorical, "key: integers or strings"),
        (data.weight, is_numeric, "weight: numbers"),
        (split, is_categorical, "split column: strings or integers"),
    ):
        kind = value_type(schema.field(name).type) if name else None
        if kind is not None and not fits(kind):
            raise InputError(f"{shards[0].path}: column {name!r} is {kind}", f"For a {words}: convert it.")
