"""The first pass over the data: validate, name, hash and split the rows, count labels, fit the encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ROLES, Data
from pipeline.data.catalog import CatalogWriter
from pipeline.data.encode import Encoding
from pipeline.data.files import Run, Shard
from pipeline.data.hashing import content_ids, ids_of_parts, key_ids
from pipeline.data.labels import CLASS_HINT, DROP_HINT, missing_labels
from pipeline.data.originals import class_names
from pipeline.data.problems import Problems, place
from pipeline.data.rare_classes import Rare
from pipeline.data.splits import ASIDE_CODE, NONE, roles_by_column, roles_by_fractions
from pipeline.errors import InputError
from pipeline.features.arrow import plain
from pipeline.features.faults import Fault, fault_where
from pipeline.tasks.classification import one_spelling
from pipeline.tasks.multilabel import as_sets

MOST_UNREADABLE = 0.1
"""Of the rows: if more can't be read, the config is wrong and not the rows."""
KEY_HINT = "Every row needs a key: fill it in, or leave data.key out."


@dataclass
class ShardRows:
    """What is kept of a shard's rows, all [rows].

    Rows that take no part have the role NONE, or ASIDE_CODE if they can't be read and are a finding.
    """

    shard: Shard
    roles: np.ndarray = field(init=False)  # uint8, places in ROLES, ASIDE_CODE or NONE
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

    def where(self, mask: np.ndarray) -> Part:
        """The rows of a mask."""
        if mask.all():
            return self
        return Part(self.shard, self.rows[mask], self.batch.filter(pa.array(mask)))

    def place(self, index: int) -> str:
        return place(self.shard, int(self.rows[index]))


class Survey:
    """Takes the runs in order; then has the encoding's statistics, numbers per row, and all problems."""

    def __init__(
        self,
        data: Data,
        shards: Sequence[Shard],
        encoding: Encoding,
        catalog: CatalogWriter,
        rare: Rare = Rare(),  # noqa: B008
    ):
        self.data = data
        self.rare = rare
        self.encoding = encoding
        self.catalog = catalog
        self.shards = [ShardRows(shard) for shard in shards]
        self.problems = Problems()
        self.dropped = 0  # rows without a label
        self.rare_rows = 0  # rows of classes that are set aside
        self.unreadable = Problems()  # of rows that are set aside
        self.labelled_rows = 0

    def add(self, run: Run) -> None:
        """Check and learn from one run. Faults are only noted."""
        part = self.labelled(run)
        part = replace(part, batch=self.encoding.placed(part.batch, part.shard.path))
        keys = self.row_keys(part)
        ids = key_ids(keys)
        features = self.feature_ids(part)
        roles = self.roles(part, features)
        lost = self.set_aside(part, roles)
        self.learn(part.where(~lost), roles[~lost])
        contents = content_ids([pa.array(features), self.compared(part.batch.column(self.data.label))])
        kept = self.shards[part.shard.index]
        kept.roles[part.rows], kept.ids[part.rows] = roles, ids
        kept.contents[part.rows], kept.features[part.rows] = contents, features
        if not self.problems:
            there = roles != NONE
            listed = [key for key, is_there in zip(keys, there) if is_there]
            self.catalog.add(
                part.shard, part.rows[there], listed, contents[there], features[there], roles[there]
            )

    def note(self, part: Part, what: str, column: str, faults: list[Fault]) -> None:
        """Remember faults: `label 'colour' is null`, or `label is null` if that is the column's name."""
        self.problems.add(part.shard, part.rows, _subject(what, column), faults)

    def compared(self, label: pa.Array) -> pa.Array:
        """Labels such that equal ones say the same."""
        if not self.data.merge_spellings:
            return as_sets(label)
        return pa.array([one_spelling(value) for value in plain(label).to_pylist()], pa.string())

    def labelled(self, run: Run) -> Part:
        """The rows with a label that are not set aside; that one lacks it is a fault unless such rows are dropped."""
        part = self._with_label(run)
        aside = self.rare.is_aside(plain(part.batch.column(self.data.label)))
        if not aside.any():
            return part
        self.rare_rows += int(aside.sum())
        return part.where(~aside)

    def _with_label(self, run: Run) -> Part:
        rows = np.arange(run.first, run.first + run.batch.num_rows)
        missing = missing_labels(
            run.batch.column(self.data.label), class_names(run.shard.schema, self.data.label)
        )
        part = Part(run.shard, rows, run.batch)
        if not missing.any():
            return part
        if self.data.missing_label == "drop":
            self.dropped += int(missing.sum())
            return part.where(~missing)
        value = run.batch.column(self.data.label)[int(np.argmax(missing))].as_py()
        numbered = isinstance(value, int)
        what = "is null" if value is None else f"is {value}, the number of no class" if numbered else "is NaN"
        hint = CLASS_HINT if numbered else DROP_HINT
        self.note(part, "label", self.data.label, fault_where(missing, what, hint))
        return part

    def feature_ids(self, part: Part) -> np.ndarray:
        """int64 [rows], of what every feature is told apart by."""
        encoders = sorted(self.encoding.features, key=lambda encoder: encoder.column)
        return ids_of_parts([encoder.hashed(part.batch.column(encoder.column)) for encoder in encoders])

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
            codes = roles_by_fractions(features, split)
            return np.where(np.isin(features, self.rare.to_train), np.uint8(0), codes)
        codes, faults = roles_by_column(plain(part.batch.column(split.column)), split)
        self.note(part, "split column", split.column, faults)
        return codes

    def set_aside(self, part: Part, roles: np.ndarray) -> np.ndarray:
        """Change the roles of rows that can't be read, bool [rows].

        In a role whose labels are declared right nothing is found wrong: there, such a row only takes no part.
        """
        self.labelled_rows += len(part.rows)
        lost, train = np.zeros(len(part.rows), dtype=bool), roles == ROLES.index("train")
        for encoder in self.encoding.features:
            if encoder.sets_aside:
                faults = encoder.update(part.batch.column(encoder.column), train)
                self.note(part, "column", encoder.column, [each for each in faults if not each.unreadable])
                unreadable = [each for each in faults if each.unreadable]
                self.unreadable.add(part.shard, part.rows, _subject("column", encoder.column), unreadable)
                for fault in unreadable:
                    lost[fault.places] = True
        clean = [code for code, role in enumerate(ROLES) if self.data.labels_are_clean(role)]
        roles[lost] = np.where(np.isin(roles[lost], [*clean, NONE]), NONE, ASIDE_CODE)
        return lost

    def learn(self, part: Part, roles: np.ndarray) -> None:
        """Let every encoder check the rows and learn from those of train."""
        train = roles == ROLES.index("train")
        for encoder in self.encoding.features:
            if not encoder.sets_aside:
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

    def check_readable(self) -> None:
        """Raises InputError for the first row that can't be read, if more than MOST_UNREADABLE can't."""
        first = self.unreadable.first
        if first is not None and self.unreadable.total > MOST_UNREADABLE * self.labelled_rows:
            raise InputError(
                f"{place(first.shard, first.row)}: {first.text}",
                f"{self.unreadable.total:,} of {self.labelled_rows:,} rows can't be read, more than a tenth: "
                f"with fewer, they would be set aside. {first.hint}",
            )


def _subject(what: str, column: str) -> str:
    return what if what == column else f"{what} {column!r}"
