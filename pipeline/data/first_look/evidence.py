"""Columns that a model of the user's own has written: class probabilities and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Probabilities
from pipeline.data.evidence.values import ProbabilitiesReader
from pipeline.data.files import Shard
from pipeline.data.first_look.columns import count_values, values_of
from pipeline.features.arrow import is_list, value_type
from pipeline.features.encoder import Choice

MOST_CLASSES = 1000
PEEK_ROWS = 200
"""Rows whose numbers have to be probabilities."""
WIDE = 16
"""Lists of fewer numbers are hardly embeddings."""
LIST = "list"


def with_evidence(
    choices: dict[str, Choice], shards: Sequence[Shard], label: str, task: str
) -> tuple[dict[str, Choice], str | None]:
    """What becomes of the columns if lists of numbers may be evidence, and the column of class probabilities.

    Lists that are the probabilities of all classes are no feature, unless no other feature is left. The remark of other
    wide lists says that they can be evidence.
    """
    lists = [name for name, choice in choices.items() if choice.kind == LIST]
    classes = count_values(shards, label, MOST_CLASSES) if lists and task == "classification" else None
    known = sorted(value for value in classes or {} if value is not None)
    found = next((name for name in lists if _are_probabilities(shards[0], name, known)), None)
    others = any(choice.kind for name, choice in choices.items() if name != found)
    found = found if others else None
    changed = {name: _with_remark(choices[name], shards[0], name) for name in lists if name != found}
    if found is not None:
        remark = f"probabilities of {len(known)} classes: evidence about the labels"
        changed[found] = Choice(None, remark, group=choices[found].group)
    return choices | changed, found


def _are_probabilities(shard: Shard, name: str, classes: list[Any]) -> bool:
    """Whether the first rows are lists of as many numbers as there are classes, which sum to 1."""
    kind = value_type(shard.schema.field(name).type)
    is_lists = is_list(kind) or pa.types.is_fixed_size_list(kind)
    if len(classes) < 2 or not is_lists or not pa.types.is_floating(kind.value_type):
        return False
    first = next(values_of([shard], name))[:PEEK_ROWS]
    reader = ProbabilitiesReader.of(Probabilities(column=name), classes)
    return isinstance(reader.read(pa.table({name: first})), np.ndarray)


def _with_remark(choice: Choice, shard: Shard, name: str) -> Choice:
    lengths = next(values_of([shard], name)).value_lengths()
    if len(lengths) == 0 or (lengths[0].as_py() or 0) < WIDE:
        return choice
    said = f"{choice.remark}; as data.embeddings it is evidence that the model does not see"
    return replace(choice, remark=said)
