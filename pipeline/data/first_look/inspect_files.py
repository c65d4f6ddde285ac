"""A first look at files: which are for what, and what each column is good for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipeline.data.first_look.columns import is_key, read_sample
from pipeline.data.first_look.evidence import with_evidence
from pipeline.data.first_look.features import judge, only_what_fits
from pipeline.data.first_look.giveaway import Told, giveaways
from pipeline.data.first_look.label import guess_label, look_at_label
from pipeline.data.first_look.proposal import Label, Proposal, some
from pipeline.data.first_look.roles import find_sources
from pipeline.data.formats.copies import notes_of
from pipeline.data.formats.streams import COMPRESSED
from pipeline.data.names import role_word
from pipeline.errors import InputError
from pipeline.features.arrow import is_numeric, value_type
from pipeline.features.encoder import Choice
from pipeline.features.registry import find_kind

WEIGHT_NAMES = {"sample_weight", "instance_weight", "row_weight"}


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
    judged = {c: judge(c, train, sample) for c in rest if c not in (key, weight)}
    told = _giveaways(judged, found, sample)
    choices = only_what_fits(judged | {c: _said(judged[c], told[c]) for c in told})
    choices, pred_probs = with_evidence(choices, train, found.column, found.task)
    features = {column: choice.kind for column, choice in choices.items() if choice.kind}
    if not features:
        reasons = ", ".join(f"{column} ({choice.remark})" for column, choice in choices.items())
        raise InputError(
            f"{train[0].path}: no column is left as a feature", f"Left out: {reasons or 'nothing'}."
        )
    gaps = [column for column, kind in features.items() if _has_gaps(column, kind, sample)]
    notes = [note for shard in shards for note in notes_of(shard.path)]
    return Proposal(
        name or _name_of(paths),
        shards,
        sources,
        found,
        choices,
        key,
        weight,
        gaps,
        validation_is_clean,
        {column: told[column].words for column in told if column in features},
        notes,
        pred_probs,
    )


def _giveaways(choices: dict[str, Choice], label: Label, sample: pa.Table) -> dict[str, Told]:
    """The features of a table that alone tell the label."""
    dense = [
        c for c, choice in choices.items() if choice.kind and find_kind(choice.kind).judged_as == "columns"
    ]
    if label.column not in sample.column_names:
        return {}
    columns = {column: sample[column].combine_chunks() for column in dense}
    return giveaways(columns, sample[label.column].combine_chunks(), label.task)


def _said(choice: Choice, told: Told) -> Choice:
    """What becomes of a feature that alone tells the label: one that is the label is left out."""
    if told.same:
        return Choice(None, f"the label in another form: it {told.words}", group=choice.group)
    return replace(choice, remark=f"alone it {told.words}: leave it out if it is not known before the label")


def given(column: str | None, schema: pa.Schema, what: str) -> str | None:
    if column is not None and column not in schema.names:
        raise InputError(f"--{what} {column}: no such column", f"The columns are {some(schema.names, 20)}.")
    return column


def _has_gaps(column: str, kind: str, sample: pa.Table) -> bool:
    """Null, NaN or infinity in the sample, where missing is not a value of its own, as in categories."""
    return column in sample.column_names and find_kind(kind).has_gaps(sample[column].combine_chunks())


def _name_of(paths: Sequence[str]) -> str:
    """A name for the data: of the folder, or of the file if it is a single one."""
    path = Path(paths[0]).absolute()
    if not path.is_dir():
        path = (
            path.parent
            if len(paths) > 1 or "*" in path.name or role_word(path.stem)
            else path.with_name(path.name.removesuffix(path.suffix)).with_suffix("")
            if path.suffix.lower() in COMPRESSED
            else path.with_suffix("")
        )
    path = path.parent if role_word(path.name) else path
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name).strip("-._") or "dataset"
