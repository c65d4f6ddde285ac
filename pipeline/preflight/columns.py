"""What `winnow check` says of single columns: features that number rows or alone tell the label, odd labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.data.encode import Encoding
from pipeline.data.files import Shard
from pipeline.data.first_look.columns import sample_of
from pipeline.data.first_look.giveaway import giveaways
from pipeline.data.first_look.row_numbers import counts_rows, is_pandas_index
from pipeline.data.prepare import aside_text
from pipeline.data.survey import Survey
from pipeline.features.encoder import Encoder
from pipeline.features.kinds.numeric import NumericEncoder
from pipeline.tasks.classification import ClassLabel

LEAVE_OUT = "warning: take it out of data.features if it is not known before the label"
SPELLINGS = "warning: they are different classes; correct them, or set data.merge_spellings: true"
AN_ID = "warning: take it out of data.features if it is an id, or make it a string and a category"
NUMBERS_ROWS = "warning: a model learns the order of the rows from it; take it out of data.features"


EXACT = 2**53
"""Whole numbers above it lose their last digits as features."""
SHOWN = 3


def odd_labels(survey: Survey) -> Iterator[tuple[str, str]]:
    """Text and status of a line for spellings of one label, an empty one, and classes that are too rare."""
    label = survey.encoding.label
    if not isinstance(label, ClassLabel):
        return
    groups = label.alike()
    if groups:
        shown = "; ".join(" = ".join(repr(value) for value in group) for group in groups[:SHOWN])
        more = f" and {len(groups) - SHOWN:,} more" if len(groups) > SHOWN else ""
        said = "one class each" if label.merge else "equal but for blanks, case or Unicode form"
        yield f"{shown}{more}: {said}", "ok" if label.merge else SPELLINGS
    if any(isinstance(value, str) and not value.strip() for value in label.classes):
        yield "an empty label is a class", "warning: if it means that the label is missing, make it null"
    if survey.rare_rows:
        yield aside_text(survey), "warning: add rows of these classes, or drop them"


def suspicious_features(shards: Sequence[Shard], encoding: Encoding) -> Iterator[tuple[str, str]]:
    """Text and status of a line for every feature that should not be one.

    Args:
        shards: of train rows, or of all rows where a split tells the roles.
        encoding: fitted or not; only of a fitted one it says which numbers are too large.
    """
    shards = [shard for shard in shards if shard.rows and shard.role in ("train", None)]
    names = [encoder.column for encoder in encoding.features if encoder.judged_as == "columns"]
    if not names:
        return
    label = encoding.label.column
    sample = sample_of(shards, [*names, label])
    columns = {name: sample[name].combine_chunks() for name in names}
    told = giveaways(columns, sample[label].combine_chunks(), encoding.task)
    for name in names:
        if is_pandas_index(shards[0].schema, name):
            yield f"{name} is the index that pandas stored", NUMBERS_ROWS
        elif counted := counts_rows(name, shards):
            yield f"{name} has {counted}", NUMBERS_ROWS
        elif name in told:
            yield f"{name} alone {told[name].words}", LEAVE_OUT
    for encoder in encoding.features:
        if pa.types.is_integer(shards[0].type_of(encoder.column)) and _largest(encoder) > EXACT:
            yield (
                f"{encoder.column} has whole numbers above 2^53, whose last digits a model does not see",
                AN_ID,
            )


def _largest(encoder: Encoder) -> float:
    """The largest absolute value of a fitted number; 0 of other kinds."""
    if not isinstance(encoder, NumericEncoder) or encoder.moments is None:
        return 0.0
    return float(max(-encoder.moments.low.min(), encoder.moments.high.max()))
