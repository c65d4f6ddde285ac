"""Which column is the label, and what it says."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.data.files import Shard
from pipeline.data.first_look.columns import count_distinct, count_values, values_of
from pipeline.data.first_look.proposal import Label, counted, some
from pipeline.data.names import words
from pipeline.data.originals import class_names
from pipeline.data.schema import detect_task
from pipeline.errors import InputError
from pipeline.features.arrow import numbers, value_type

LABEL_NAMES = (
    "label",
    "labels",
    "target",
    "class",
    "y",
    "sentiment",
    "category",
    "outcome",
    "response",
    "rating",
)
LABEL_WORDS = {"label", "labels", "target", "class"}
MOST_CLASSES = 1000
CLASSES_OF_INTEGERS = 100  # more distinct integers than that are a number to predict
FEW_NUMBERS = 20  # so few whole numbers in a float column may have been meant as classes


def guess_label(shard: Shard, sample: pa.Table) -> str:
    """The label by its name. Raises InputError that lists the columns that could be it."""
    names = {name.lower(): name for name in reversed(shard.schema.names)}
    for name in LABEL_NAMES:
        if name in names:
            return names[name]
    named = [name for name in shard.schema.names if words(name) & LABEL_WORDS]
    if len(named) == 1:
        return named[0]
    scalar = [name for name in sample.column_names if not pa.types.is_nested(sample[name].type)]
    few = [name for name in scalar if 2 <= count_distinct(sample[name]) <= CLASSES_OF_INTEGERS]
    raise InputError(
        f"{shard.path}: which column is the label? It could be {some(named or few or scalar, 12)}",
        "Name it: --label COLUMN.",
    )


def look_at_label(shards: list[Shard], column: str) -> Label:
    """Task, classes and their shares, over all rows. Raises InputError for a column that can't be a label."""
    task = detect_task(shards, Data.model_construct(train=[], features={}, label=column, task="auto"))
    if task == "multilabel":
        return Label(column, task, _sets_text(shards, column), 0)
    if task == "regression":
        return target(shards, column)
    is_integer = pa.types.is_integer(value_type(shards[0].schema.field(column).type))
    counts = count_values(shards, column, CLASSES_OF_INTEGERS if is_integer else MOST_CLASSES)
    if counts is not None:
        missing = counts.pop(None, 0)
        names = class_names(shards[0].schema, column)
        for value in [value for value in counts if names and value not in names]:
            missing += counts.pop(value)
        named = Counter({names.get(value, value): count for value, count in counts.items()})
        return Label(column, task, _classes_text(named), missing)
    if is_integer:
        return target(shards, column)
    raise InputError(
        f"{shards[0].path}: column {column!r} has more than {MOST_CLASSES:,} values, too many for classes",
        "Name the label column: --label COLUMN.",
    )


def target(shards: list[Shard], column: str) -> Label:
    low, high, missing, seen = math.inf, -math.inf, 0, np.array([])
    for values in map(numbers, values_of(shards, column)):
        finite = values[np.isfinite(values)]
        low, high = finite.min(initial=low), finite.max(initial=high)
        missing += int(np.isnan(values).sum())
        seen = np.union1d(seen, finite)[: FEW_NUMBERS + 1]
    few = len(seen) <= FEW_NUMBERS and (seen == np.round(seen)).all()
    hint = "; for classes make it a column of integers" if few else ""
    return Label(column, "regression", f"a number, {low:g} to {high:g}{hint}", missing)


def _sets_text(shards: list[Shard], column: str) -> str:
    """Raises InputError for more than MOST_CLASSES labels."""
    labels: set[Any] = set()
    of_all = rows = 0
    for values in values_of(shards, column):
        labels |= set(values.flatten().unique().to_pylist()) - {None}
        of_all, rows = of_all + len(values.flatten()), rows + len(values)
        if len(labels) > MOST_CLASSES:
            raise InputError(
                f"{shards[0].path}: column {column!r} has more than {MOST_CLASSES:,} labels in its lists",
                "Name the label column: --label COLUMN.",
            )
    return f"sets of labels: {counted(len(labels), 'label')}, {of_all / max(1, rows):.2g} per row"


def _classes_text(counts: Counter[Any]) -> str:
    shares = [(value, 100 * count / counts.total()) for value, count in counts.most_common()]
    if len(shares) > 4:
        return f"{len(shares)} classes of {shares[-1][1]:.2g} % to {shares[0][1]:.2g} %"
    each = ", ".join(f"{value} {share:.0f} %" for value, share in shares)
    return f"{counted(len(shares), 'class', 'classes')}: {each}"
