"""Evidence as numbers: lists and columns of a table become a matrix, or the first row that is wrong is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.config import Data, Embeddings, Probabilities, class_text
from pipeline.errors import InputError
from pipeline.features.arrow import is_list, is_numeric, numbers, plain, value_type

SUM_TOLERANCE = 0.01
"""Probabilities whose sum is this far from 1 are taken for rounded and divided by their sum."""


@dataclass(frozen=True)
class BadRow:
    """The first row of a table that is wrong: its place, what is wrong with it, and what to do."""

    place: int
    what: str
    hint: str


class Reader(Protocol):
    """Reads one kind of evidence.

    Attributes:
        name: the key below `data`.
    """

    name: str

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""

    def check_types(self, where: str, schema: pa.Schema) -> None:
        """Raises InputError for a column whose type can't be this evidence; `where` is the file."""

    def read(self, table: pa.RecordBatch | pa.Table) -> np.ndarray | BadRow:
        """The values of all rows, float32 `[rows, width]`, or the first row that is wrong."""


def readers(data: Data, classes: Sequence[Any]) -> list[Reader]:
    """The readers of the evidence that the config names.

    Raises:
        InputError: the names of the probabilities are not those of the classes.
    """
    found: list[Reader] = []
    if data.embeddings is not None:
        found.append(EmbeddingsReader(data.embeddings))
    if data.pred_probs is not None:
        found.append(ProbabilitiesReader.of(data.pred_probs, classes))
    return found


@dataclass
class EmbeddingsReader:
    """Lists that all have the length of the first one."""

    given: Embeddings
    width: int | None = None
    name: str = "embeddings"

    @property
    def columns(self) -> list[str]:
        return self.given.columns_read

    def check_types(self, where: str, schema: pa.Schema) -> None:
        _check_list(where, schema, self.given.column, self.name)

    def read(self, table: pa.RecordBatch | pa.Table) -> np.ndarray | BadRow:
        column = _whole(table, self.given.column)
        lengths = _lengths(column)
        if self.width is None and (lengths >= 0).any():
            self.width = int(lengths[lengths >= 0][0])
        width = self.width or 0
        return _matrix(
            column,
            lengths,
            width,
            self.given.column,
            f"numbers, the first row has {width}",
            "All embeddings need one length: write them again with one model.",
        )


@dataclass
class ProbabilitiesReader:
    """Probabilities of all classes.

    Attributes:
        given: what the config says.
        classes: the classes of the data as text, sorted as the run has them.
        order: for each class, the place of its probability in the values that are read.
    """

    given: Probabilities
    classes: list[str]
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    name: str = "pred_probs"

    @classmethod
    def of(cls, given: Probabilities, classes: Sequence[Any]) -> ProbabilitiesReader:
        texts = [class_text(value) for value in classes]
        names, key = given.names, "columns" if given.columns is not None else "classes"
        if names is None:
            return cls(given, texts, np.arange(len(texts)))
        lacking = [text for text in texts if text not in names]
        unknown = [name for name in names if name not in texts]
        if lacking or unknown:
            what = f"lacks the class {lacking[0]!r}" if lacking else f"has {unknown[0]!r}, which no label is"
            raise InputError(
                f"data.pred_probs.{key} {what}",
                f"It needs every class once. The classes are {_listed(texts)}.",
            )
        return cls(given, texts, np.array([names.index(text) for text in texts]))

    @property
    def columns(self) -> list[str]:
        return self.given.columns_read

    def check_types(self, where: str, schema: pa.Schema) -> None:
        if self.given.column is not None:
            _check_list(where, schema, self.given.column, self.name)
            return
        for name in self.columns:
            kind = value_type(schema.field(name).type)
            if not is_numeric(kind):
                raise InputError(
                    f"{where}: column {name!r} is {kind}, and data.pred_probs.columns are numbers",
                    "Name the columns with the probabilities of the classes.",
                )

    def read(self, table: pa.RecordBatch | pa.Table) -> np.ndarray | BadRow:
        values = self._values(table)
        if isinstance(values, BadRow):
            return values
        outside = (values < 0) | (values > 1)
        sums = values.sum(1, dtype=np.float64)
        wrong = np.flatnonzero(outside.any(1) | (np.abs(sums - 1) > SUM_TOLERANCE))
        if not len(wrong):
            return (values / sums[:, None]).astype(np.float32)[:, self.order]
        row = int(wrong[0])
        columns = f"column {self.given.column!r}" if self.given.column else f"columns {_listed(self.columns)}"
        if outside[row].any():
            place = int(outside[row].argmax())
            of_column = f"column {self.columns[place]!r}" if self.given.columns else columns
            return BadRow(row, f"{of_column} has {values[row, place]:g}, which is no probability", SUM_HINT)
        return BadRow(row, f"{columns}: the probabilities sum to {sums[row]:.4g}, not to 1", SUM_HINT)

    def _values(self, table: pa.RecordBatch | pa.Table) -> np.ndarray | BadRow:
        """In the order of the values that are read, float32 `[rows, classes]`."""
        if self.given.column is not None:
            column = _whole(table, self.given.column)
            found = f"probabilities, and the data have {len(self.classes)} classes ({_listed(self.classes)})"
            hint = "A row needs the probability of every class, in the order of data.pred_probs.classes."
            return _matrix(column, _lengths(column), len(self.classes), self.given.column, found, hint)
        parts = [numbers(_whole(table, name)) for name in self.columns]
        for name, part in zip(self.columns, parts):
            bad = np.flatnonzero(~np.isfinite(part))
            if len(bad):
                value = "null or NaN" if np.isnan(part[bad[0]]) else str(part[bad[0]])
                return BadRow(int(bad[0]), f"column {name!r} is {value}", FINITE_HINT)
        return np.stack(parts, 1).astype(np.float32)


SUM_HINT = "Give probabilities of all classes of a row, after the softmax; they sum to 1."
FINITE_HINT = "Every row that is audited needs finite numbers: compute them again, or leave the evidence out."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _whole(table: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return plain(column)


def _check_list(where: str, schema: pa.Schema, name: str, key: str) -> None:
    kind = value_type(schema.field(name).type)
    if not (is_list(kind) or pa.types.is_fixed_size_list(kind)) or not is_numeric(kind.value_type):
        raise InputError(
            f"{where}: column {name!r} is {kind}, and data.{key} is a column of lists of numbers",
            f"Write one list per row, or leave data.{key} out.",
        )


def _lengths(column: pa.Array) -> np.ndarray:
    """int64 `[rows]`; −1 for a null list."""
    return column.value_lengths().cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)


def _matrix(
    column: pa.Array, lengths: np.ndarray, width: int, name: str, found: str, hint: str
) -> np.ndarray | BadRow:
    """Lists as float32 `[rows, width]`; `found` says after a number what the row has, for messages."""
    other = np.flatnonzero(lengths != width)
    if len(other) or not width:
        row = int(other[0]) if len(other) else 0
        if lengths[row] < 0:
            return BadRow(row, f"column {name!r} is null", FINITE_HINT)
        return BadRow(row, f"column {name!r} has {lengths[row]} {found}", hint)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused
        values = numbers(column.flatten()).reshape(len(column), width).astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, place = (int(each) for each in bad[0])
        value = "null or NaN" if np.isnan(values[row, place]) else "infinite, or too large for float32"
        return BadRow(row, f"column {name!r}, element {place} is {value}", FINITE_HINT)
    return values
