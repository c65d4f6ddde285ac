"""What `winnow check` says of single columns: features that number rows, or that alone tell the label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.data.encode import Encoding
from pipeline.data.files import Shard
from pipeline.data.first_look.columns import sample_of
from pipeline.data.first_look.giveaway import giveaways
from pipeline.data.first_look.row_numbers import counts_rows, is_pandas_index

LEAVE_OUT = "warning: take it out of data.features if it is not known before the label"
NUMBERS_ROWS = "warning: a model learns the order of the rows from it; take it out of data.features"


def suspicious_features(shards: Sequence[Shard], encoding: Encoding) -> Iterator[tuple[str, str]]:
    """Text and status of a line for every feature that should not be one.

    Args:
        shards: of train rows, or of all rows where a split tells the roles.
        encoding: fitted or not.
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
