"""The first pass over the data: validate, name, hash and split the rows, count labels, fit the encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES, Data
from pipeline.data.catalog import CatalogWriter
from pipeline.data.encode import Encoding
from pipeline.data.files import Run, Shard
from pipeline.data.hashing import content_ids, key_ids
from pipeline.data.labels import CLASS_HINT, DROP_HINT, missing_labels
from pipeline.data.originals import class_names
from pipeline.data.problems import Problems, place
from pipeline.data.splits import NONE, roles_by_column, roles_by_fractions
from pipeline.features.arrow import plain
from pipeline.features.faults import Fault, fault_where
from pipeline.tasks.multilabel import as_sets

KEY_HINT = "Every row needs a key: fill it in, or leave data.key out."


@dataclass
class ShardRows:
    """What is kept of a shard's rows, all [rows]; rows that take no part have the role NONE."""

    shard: Shard
    roles: np.ndarray = field(init=False)  # uint8, places in ROLES
    ids: np.ndarray = field(init=False)  # int64, of the row key
    contents: np.ndarray = field(init=False)  # int64, of features and label
    features: np.ndarray = field(init=False)  # int64, of the features alone

    def __post_init__(self) -> None:
        rows = self.shard.rows
        self.roles = np.full(rows, NONE, dtype=np.uint8)
        self.ids, self.contents, self.features = (np.zeros(rows, dtype=np.int64) for _ in range(3))


@dataclass(frozen=True)
class Part:
    """The rows of a run that take part: `rows` are their places in the shard, int64."""

    shard: Shard
    rows: np.ndarray
    batch: pa.RecordBatch

    def place(self, index: int) -> str:
        return place(self.shard, int(self.rows[index]))


class Survey:
    """Takes the runs in order; then has the encoding's statistics, numbers per row, and all problems."""

    def __init__(self, data: Data, shards: Sequence[Shard], encoding: Encoding, catalog: CatalogWriter):
        self.data = data
        self.encoding = encoding
        self.catalog = catalog
        self.shards = [ShardRows(shard) for shard in shards]
        self.problems = Problems()
        self.dropped = 0  # rows without a label

    def add(self, run: Run) -> None:
        """Check and learn from one run. Faults are only noted."""
        part = self.labelled(run)
        keys = self.row_keys(part)
        ids = key_ids(keys)
        features = content_ids([part.batch.column(name) for name in sorted(self.data.features)])
        roles = self.roles(part, features)
        self.learn(part, roles)
        contents = content_ids([pa.array(features), as_sets(part.batch.column(self.data.label))])
        kept = self.shards[part.shard.index]
        kept.roles[part.rows], kept.ids[part.rows] = roles, ids
        kept.contents[part.rows], kept.features[part.rows] = contents, features
        if not self.problems:
            self.catalog.add(part.shard, part.rows, keys, contents, features, roles)

    def note(self, part: Part, what: str, column: str, faults: list[Fault]) -> None:
        """Remember faults: `label 'colour' is null`, or `label is null` if that is the column's name."""
        subject = what if what == column else f"{what} {column!r}"
        self.problems.add(part.shard, part.rows, subject, faults)

    def labelled(self, run: Run) -> Part:
        """The rows with a label; that one lacks is a fault unless such rows are to be dropped."""
        rows = np.arange(run.first, run.first + run.batch.num_rows)
        missing = missing_labels(
            run.batch.column(self.data.label), class_names(run.shard.schema, self.data.label)
        )
        part = Part(run.shard, rows, run.batch)
        if not missing.any():
            return part
        if self.data.missing_label == "drop":
            self.dropped += int(missing.sum())
            return Part(run.shard, rows[~missing], run.batch.filter(pa.array(~missing)))
        value = run.batch.column(self.data.label)[int(np.argmax(missing))].as_py()
        numbered = isinstance(value, int)
        what = "is null" if value is None else f"is {value}, the number of no class" if numbered else "is NaN"
        hint = CLASS_HINT if numbered else DROP_HINT
        self.note(part, "label", self.data.label, fault_where(missing, what, hint))
        return part

    def row_keys(self, part: Part) -> list[str]:
        """The key column as text, else `path#row`."""
        if self.data.key is None:
            return [f"{part.shard.path}#{row}" for row in part.rows.tolist()]
        column = plain(part.batch.column(self.data.key))
        null = pc.is_null(column).to_numpy(zero_copy_only=False)
        self.note(part, "key", self.data.key, fault_where(null, "is null", KEY_HINT))
        return [str(value) for value in column.to_pylist()]

    def roles(self, part: Part, features: np.ndarray) -> np.ndarray:
        """Role codes, uint8 [rows]; features: their ids, int64 [rows]."""
        split = self.data.split
        if split is None:
            return np.full(len(part.rows), ROLES.index(part.shard.role or "train"), dtype=np.uint8)
        if split.column is None:
            return roles_by_fractions(features, split)
        codes, faults = roles_by_column(plain(part.batch.column(split.column)), split)
        self.note(part, "split column", split.column, faults)
        return codes

    def learn(self, part: Part, roles: np.ndarray) -> None:
        """Let every encoder check the rows and learn from those of train."""
        train = roles == ROLES.index("train")
        for encoder in self.encoding.features:
            faults = encoder.update(part.batch.column(encoder.column), train)
            self.note(part, "column", encoder.column, faults)
        label, weight = self.encoding.label, self.encoding.weight
        faults = label.update(part.batch.column(label.column), roles, part.place)
        self.note(part, "label", label.column, faults)
        if weight:
            self.note(part, "weight", weight.column, weight.update(part.batch.column(weight.column), train))

    def counts(self) -> dict[str, int]:
        """Rows of each role."""
        roles = np.concatenate([shard.roles for shard in self.shards])
        return {role: int((roles == code).sum()) for code, role in enumerate(ROLES)}
