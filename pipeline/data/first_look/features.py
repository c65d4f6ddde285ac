"""What becomes of the other columns: features, groups, or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipeline.data.files import Shard
from pipeline.data.first_look.columns import count_distinct, few_values, is_id, values_of
from pipeline.data.first_look.label import LABEL_WORDS
from pipeline.data.first_look.roles import SPLIT_NAMES
from pipeline.data.first_look.row_numbers import counts_rows, is_pandas_index
from pipeline.data.names import words
from pipeline.features.arrow import is_bytes, is_string
from pipeline.features.dense import tells_by_gaps
from pipeline.features.encoder import Choice, Column, Sample
from pipeline.features.registry import built_in, find_kind

GROUP_WORDS = {
    "source",
    "group",
    "origin",
    "annotator",
    "annotators",
    "worker",
    "subject",
    "site",
    "domain",
    "batch",
}
GROUP_WORDS |= {
    "vendor",
    "labeler",
    "labeller",
    "rater",
    "coder",
    "device",
    "country",
    "provider",
    "supplier",
}
GROUP_WORDS |= {
    "agency",
    "team",
    "lab",
    "hospital",
    "clinic",
    "scanner",
    "camera",
    "sensor",
    "region",
    "channel",
}
DESCRIBING_WORDS = {"country", "region", "device", "site", "domain", "channel", "camera", "sensor", "scanner"}
"""Of groups that describe the row as well as who labelled it: they are features too."""
TIME_NAMES = re.compile(r"(^|_)(timestamp|datetime|date)$|_at$")
TIME_TEXT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)")
MOST_GROUPS = 200
OF_WINNOW = "winnow_"
"""The columns that a quarantine adds begin so."""
CATEGORY = "category"
"""The kind that a column of groups has if it is a feature too."""


def judge(name: str, shards: Sequence[Shard], sample: pa.Table) -> Choice:
    """What a column of the train files is good for, by name, type, order and sample."""
    column = Column.of(shards[0].schema, name, partial(values_of, [shards[0]], name))
    column = replace(column, type=shards[0].type_of(name))
    if name.startswith(OF_WINNOW):
        return Choice(None, "of an earlier audit")
    if is_pandas_index(shards[0].schema, name):
        return Choice(None, "the index that pandas stored")
    few = partial(few_values, shards, name)
    if is_bytes(column.type) or pa.types.is_fixed_size_list(column.type):
        return proposed(Sample(column, few=few))
    if pa.types.is_temporal(column.type) or TIME_NAMES.search(name.lower()):
        return Choice(None, "time")
    if not any(kind.supports(column.type) for kind in built_in().values()):
        return Choice(None, str(column.type))
    values = sample[name].combine_chunks()
    if pa.types.is_nested(column.type):
        return proposed(Sample(column, values))
    seen = Sample(column, values, count_distinct(values), few)
    certain = proposed(seen)
    if certain.certain:
        return certain
    if _is_group(name, column.type, seen.distinct):
        return _judge_group(seen)
    if words(name) & LABEL_WORDS:
        return Choice(None, "looks like another label")
    if name.lower() in SPLIT_NAMES or is_id(name):
        return Choice(None, "names rows, says nothing about them")
    if seen.distinct < 2 and not tells_by_gaps(len(values), len(values) - values.null_count):
        return Choice(None, "always the same")
    if counted := counts_rows(name, shards):
        return Choice(None, counted)
    return proposed(seen)


def _is_group(column: str, kind: pa.DataType, distinct: int) -> bool:
    """A column of few strings or whole numbers that is named like a source of labels."""
    fits = pa.types.is_integer(kind) or is_string(kind)
    return fits and bool(words(column) & GROUP_WORDS) and 2 <= distinct <= MOST_GROUPS


def _judge_group(sample: Sample) -> Choice:
    """A group says who may have made the wrong labels; one that describes the row as well stays a feature."""
    name, remark = sample.column.name, f"a group, who made the wrong labels: {sample.distinct} values"
    if words(name) & DESCRIBING_WORDS and not is_id(name):
        kind = proposed(sample).kind
        if kind == CATEGORY:
            return Choice(kind, remark, group=True)
    return Choice(None, remark, group=True)


def proposed(sample: Sample) -> Choice:
    """What a kind of feature makes of a column, or why none takes it."""
    if is_string(sample.column.type) and sample.values is not None:
        texts = sample.values.drop_null().to_pylist()
        if all(TIME_TEXT.match(text) for text in texts):
            return Choice(None, "time")
    said = [choice for kind in built_in().values() if (choice := kind.propose(sample))]
    taken = [choice for choice in said if choice.certain] or [choice for choice in said if choice.kind]
    return next(iter(taken + said), Choice(None, str(sample.column.type)))


def only_what_fits(choices: dict[str, Choice]) -> dict[str, Choice]:
    """One image alone, or texts beside a table: what the built-in models take."""
    into = {column: find_kind(choice.kind).input for column, choice in choices.items() if choice.kind}
    alone = next((column for column, found in into.items() if found.stands_alone), None)
    fitting = dict(choices)
    for column, found in into.items():
        choice = choices[column]
        rivals = [other for other in into if into[other] is found]
        best = max(rivals, key=lambda other: choices[other].size)
        if alone is not None and column != alone:
            kind = str(choices[alone].kind)
            remark = f"{choice.kind} beside {'an' if kind[0] in 'aeiou' else 'a'} {kind}"
            fitting[column] = Choice(None, remark, group=choice.group)
        elif not found.joins and column != best:
            fitting[column] = Choice(None, f"a second {choice.kind} beside {best}")
    return fitting
