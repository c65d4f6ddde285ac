"""A first look at Parquet files: which are for what, and what each column is good for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES, Data, FeatureKind
from pipeline.data.files import Shard, SourceFile, matches, open_shards
from pipeline.data.proposal import Label, Proposal, Sources, counted, some
from pipeline.data.schema import check_schemas, detect_task
from pipeline.errors import InputError
from pipeline.features.arrow import is_bytes, is_numeric, is_string, numbers, plain, value_type
from pipeline.features.encoder import Choice, Column, Sample
from pipeline.features.registry import built_in, find_kind

ROLE_WORDS = {"train": "train", "training": "train"}
MEASURED_MORE = 10_000
"""Below so many rows the noise of the measuring rows is most of the interval of a verdict."""
ROLE_WORDS |= dict.fromkeys(("valid", "validation", "val", "dev"), "validation")
ROLE_WORDS |= dict.fromkeys(("test", "testing", "holdout", "heldout"), "holdout")
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
KEY_NAMES = {"id", "key", "index", "uuid"}
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
SPLIT_NAMES = {"split", "subset", "fold", "partition"}
WEIGHT_NAMES = {"sample_weight", "instance_weight", "row_weight"}
TIME_NAMES = re.compile(r"(^|_)(timestamp|datetime|date)$|_at$")
TIME_TEXT = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d|$)")
SAMPLE_GROUPS, SAMPLE_ROWS = 8, 2048  # row groups looked into, rows of each
MOST_CLASSES = 1000
MOST_GROUPS = 200
CLASSES_OF_INTEGERS = 100  # more distinct integers than that are a number to predict
FEW_NUMBERS = 20  # so few whole numbers in a float column may have been meant as classes
KEY_ROWS = 5_000_000  # in larger data a key is unique as far as the sample shows
CATEGORY = "category"
"""The kind that a column of groups has if it is a feature too."""


def look(
    paths: Sequence[str],
    label: str | None = None,
    key: str | None = None,
    name: str | None = None,
    validation_is_clean: bool | None = None,
) -> Proposal:
    """Look at footers, at all labels and keys, and at a sample of the other columns.

    paths: files, folders or globs. label, key, name: instead of a guess. validation_is_clean: None if not
    known.

    Raises InputError when there are no rows, a file can't be read, no label can be told, or no feature is
    left.
    """
    sources, shards = find_sources(paths)
    schema = shards[0].schema
    train = [shard for shard in shards if shard.path in sources.roles["train"] and shard.rows]
    if not train:
        raise InputError(f"{shards[0].path}: no rows", "Give files that have some.")
    sample = read_sample(train)
    found = look_at_label(train, given(label, schema, "label") or guess_label(train[0], sample))
    rest = [name for name in schema.names if name not in (found.column, (sources.split or {}).get("column"))]
    key = given(key, schema, "key") or next(
        (column for column in rest if is_key(column, shards, sample)), None
    )
    weight = next(
        (c for c in rest if c.lower() in WEIGHT_NAMES and is_numeric(value_type(schema.field(c).type))), None
    )
    judged = {c: judge(c, train[0], sample) for c in rest if c not in (key, weight)}
    choices = only_what_fits(judged)
    features = {column: choice.kind for column, choice in choices.items() if choice.kind}
    if not features:
        reasons = ", ".join(f"{column} ({choice.remark})" for column, choice in choices.items())
        raise InputError(
            f"{train[0].path}: no column is left as a feature", f"Left out: {reasons or 'nothing'}."
        )
    gaps = [column for column, kind in features.items() if has_gaps(column, kind, sample)]
    return Proposal(
        name or name_of(paths), shards, sources, found, choices, key, weight, gaps, validation_is_clean
    )


def find_sources(paths: Sequence[str]) -> tuple[Sources, list[Shard]]:
    """Files by role: by the names of folders and files, else by a column, else by fractions."""
    found: dict[str, str | None] = {}
    for pattern in paths:
        root = Path(pattern)
        for path in matches(pattern, "train"):
            named = Path(path).relative_to(root) if root.is_dir() else Path(*Path(path).parts[-2:])
            found[path] = next(filter(None, map(role_word, reversed(named.parts))), None)
    by_role = {role: [path for path, of in found.items() if of == role] for role in ROLES}
    whole = all(by_role.values())
    roles = by_role if whole else {"train": by_role["train"] or list(found)}
    used = [path for files in roles.values() for path in files]
    shards = open_shards([SourceFile(path, None) for path in used])
    split = None if whole else split_column(shards) or {"fractions": fractions(sum(s.rows for s in shards))}
    return Sources(roles, split, [path for path in found if path not in used]), shards


def fractions(rows: int) -> list[float]:
    """Shares of the roles in one set of files: of few rows a larger share measures, since that limits the proof."""
    return [0.7, 0.15, 0.15] if rows < MEASURED_MORE else [0.8, 0.1, 0.1]


def role_word(text: str) -> str | None:
    """The role that a name speaks of: train-00001.parquet, reviews_test.parquet, val."""
    roles = {ROLE_WORDS[word] for word in words(text) if word in ROLE_WORDS}
    return roles.pop() if len(roles) == 1 else None


def split_column(shards: list[Shard]) -> dict[str, Any] | None:
    """`data.split` for a column whose values are names of roles, one value a role."""
    for field in shards[0].schema:
        if field.name.lower() in SPLIT_NAMES and is_string(value_type(field.type)):
            counts: dict[Any, int] = count_values(shards, field.name, len(ROLES)) or {}
            value_of = {role_word(value or ""): value for value in counts}
            if len(value_of) == len(counts) and "train" in value_of and None not in value_of:
                return {"column": field.name, **{role: value_of[role] for role in ROLES if role in value_of}}
    return None


def values_of(shards: Sequence[Shard], column: str) -> Iterator[pa.Array]:
    """A column of all shards, a batch at a time, without dictionary encoding."""
    for shard in shards:
        with pq.ParquetFile(shard.path) as file:
            for batch in file.iter_batches(columns=[column]):
                yield plain(batch.column(0))


def count_values(shards: Sequence[Shard], column: str, most: int) -> Counter[Any] | None:
    """How often each value occurs; None if there are more than `most`, not counting null."""
    counts: Counter[Any] = Counter()
    for values in values_of(shards, column):
        for entry in pc.value_counts(values).to_pylist():
            counts[entry["values"]] += entry["counts"]
        if len(counts) - (None in counts) > most:
            return None
    return counts


def read_sample(shards: list[Shard]) -> pa.Table:
    """The first rows of some row groups; not of images and fixed-size lists, which only take space.

    Raises InputError when a shard lacks a column of the first or has it with another type.
    """
    schema = shards[0].schema
    every: dict[str, FeatureKind] = dict.fromkeys(schema.names, "auto")
    check_schemas(shards, Data.model_construct(train=[], features=every, label=schema.names[0]))
    columns = [f.name for f in schema if not (is_bytes(f.type) or pa.types.is_fixed_size_list(f.type))]
    groups = [(shard, group) for shard in shards for group, rows in enumerate(shard.row_groups) if rows]
    tables = []
    for place in np.unique(np.linspace(0, len(groups) - 1, SAMPLE_GROUPS).astype(int)):
        shard, group = groups[place]
        with pq.ParquetFile(shard.path) as file:
            batch = next(file.iter_batches(SAMPLE_ROWS, row_groups=[group], columns=columns))
        tables.append(pa.table({name: plain(batch.column(name)) for name in columns}))
    return pa.concat_tables(tables).combine_chunks()


def given(column: str | None, schema: pa.Schema, what: str) -> str | None:
    if column is not None and column not in schema.names:
        raise InputError(f"--{what} {column}: no such column", f"The columns are {some(schema.names, 20)}.")
    return column


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
        return Label(column, task, sets_text(shards, column), 0)
    if task == "regression":
        return target(shards, column)
    is_integer = pa.types.is_integer(value_type(shards[0].schema.field(column).type))
    counts = count_values(shards, column, CLASSES_OF_INTEGERS if is_integer else MOST_CLASSES)
    if counts is not None:
        missing = counts.pop(None, 0)
        return Label(column, task, classes_text(counts), missing)
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


def sets_text(shards: list[Shard], column: str) -> str:
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


def classes_text(counts: Counter[Any]) -> str:
    shares = [(value, 100 * count / counts.total()) for value, count in counts.most_common()]
    if len(shares) > 4:
        return f"{len(shares)} classes of {shares[-1][1]:.2g} % to {shares[0][1]:.2g} %"
    each = ", ".join(f"{value} {share:.0f} %" for value, share in shares)
    return f"{counted(len(shares), 'class', 'classes')}: {each}"


def is_key(column: str, shards: list[Shard], sample: pa.Table) -> bool:
    """A column with the name of a key whose values are unique, over the files of all roles."""
    kind = value_type(shards[0].schema.field(column).type)
    if not (is_id(column) and (pa.types.is_integer(kind) or is_string(kind))):
        return False
    values = sample[column]
    if sum(shard.rows for shard in shards) <= KEY_ROWS:
        if not all(column in shard.schema.names for shard in shards):
            return False
        values = pa.chunked_array(list(values_of(shards, column)))
    return values.null_count == 0 and count_distinct(values) == len(values)


def judge(name: str, shard: Shard, sample: pa.Table) -> Choice:
    """What a column is good for, by name, type and sample."""
    column = Column.of(shard.schema, name, partial(values_of, [shard], name))
    if is_bytes(column.type) or pa.types.is_fixed_size_list(column.type):
        return proposed(Sample(column))
    values = sample[name].combine_chunks()
    if pa.types.is_nested(column.type):
        return proposed(Sample(column, values))
    if pa.types.is_temporal(column.type) or TIME_NAMES.search(name.lower()):
        return Choice(None, "time")
    seen = Sample(column, values, count_distinct(values))
    if is_group(name, column.type, seen.distinct):
        return judge_group(seen)
    if words(name) & LABEL_WORDS:
        return Choice(None, "looks like another label")
    if name.lower() in SPLIT_NAMES or is_id(name):
        return Choice(None, "names rows, says nothing about them")
    if seen.distinct < 2:
        return Choice(None, "always the same")
    return proposed(seen)


def is_group(column: str, kind: pa.DataType, distinct: int) -> bool:
    """A column of few strings or whole numbers that is named like a source of labels."""
    fits = pa.types.is_integer(kind) or is_string(kind)
    return fits and bool(words(column) & GROUP_WORDS) and 2 <= distinct <= MOST_GROUPS


def judge_group(sample: Sample) -> Choice:
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
    taken = [choice for choice in said if choice.kind]
    return next(iter(taken + said), Choice(None, str(sample.column.type)))


def only_what_fits(choices: dict[str, Choice]) -> dict[str, Choice]:
    """One image alone, or one text, the longest, beside a table: what the built-in models take."""
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


def has_gaps(column: str, kind: str, sample: pa.Table) -> bool:
    """Null, NaN or infinity in the sample, where missing is not a value of its own, as in categories."""
    return column in sample.column_names and find_kind(kind).has_gaps(sample[column].combine_chunks())


def count_distinct(values: pa.Array | pa.ChunkedArray) -> int:
    """Distinct values, not counting null; also of columns without any."""
    return 0 if values.null_count == len(values) else pc.count_distinct(values).as_py()


def is_id(column: str) -> bool:
    return column.lower() in KEY_NAMES or column.lower().endswith(("_id", "_key"))


def words(name: str) -> set[str]:
    return set(re.findall("[a-z]+", name.lower()))


def name_of(paths: Sequence[str]) -> str:
    """A name for the data: of the folder, or of the file if it is a single one."""
    path = Path(paths[0]).absolute()
    if not path.is_dir():
        path = (
            path.parent
            if len(paths) > 1 or "*" in path.name or role_word(path.stem)
            else path.with_suffix("")
        )
    path = path.parent if role_word(path.name) else path
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name).strip("-._") or "dataset"
