"""The queries of a trace: rows of a Parquet file, encoded like the rows of the run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from pipeline.config import Data
from pipeline.data.encode import Encoding
from pipeline.data.files import Shard, SourceFile, open_shard, read_runs
from pipeline.data.labels import missing_labels
from pipeline.errors import InputError
from pipeline.features.arrow import plain, value_type
from pipeline.features.encoder import Encoder
from pipeline.trace.word_counts import count_words, text_columns

BATCH_ROWS = 4096


@dataclass(frozen=True)
class TraceQueries:
    """The encoded queries.

    Attributes:
        path: the file.
        keys: one for each query.
        inputs: kind of input → `[queries, …]`.
        labels: encoded, `[queries]`; None if the file has no label column.
        words: how often each query has each word, `[queries, HASHES]`; None without a text column.
    """

    path: Path
    keys: list[str]
    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None
    words: sparse.csr_matrix | None

    def __len__(self) -> int:
        return len(self.keys)


def read_queries(path: Path, encoding: Encoding, data: Data) -> TraceQueries:
    """Read and encode the queries.

    Args:
        path: a Parquet file with the feature columns of the run.
        encoding: of the run.
        data: the section `data` of the run's config.

    Raises:
        InputError: the file can't be read or has no rows, a column is missing or has another type or shape, a value
            can't be encoded, or the run does not know a label.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", f"Relative paths start from {Path.cwd()}.")
    shard = open_shard(0, SourceFile(str(path), None))
    if shard.rows == 0:
        raise InputError(f"{path}: no rows", "Give at least one query.")
    for encoder in encoding.features:
        _check_feature(shard, encoder)
    label = encoding.label.column if encoding.label.column in shard.schema.names else None
    if label is None and encoding.task == "regression":
        raise InputError(
            f"{path}: no column {encoding.label.column!r}",
            "In regression a query needs its target: the loss of the model's own prediction is always 0.",
        )
    key = data.key if data.key in shard.schema.names else None
    columns = [*(encoder.column for encoder in encoding.features), label, key]
    keys: list[str] = []
    inputs: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray] = []
    words: list[sparse.csr_matrix] = []
    texts = text_columns(encoding.features)
    for run in read_runs(shard, list(dict.fromkeys(name for name in columns if name)), BATCH_ROWS):
        batch = encoding.placed(run.batch, shard.path)
        inputs.append(_encode_features(encoding, batch, shard.path, run.first))
        if label:
            labels.append(_encode_labels(encoding, run.batch.column(label), shard.path, run.first))
        keys += _row_keys(run.batch, key, path, run.first)
        if texts:
            words.append(count_words(texts, {each.column: batch.column(each.column) for each in texts}))
    together = {kind: np.concatenate([part[kind] for part in inputs]) for kind in inputs[0]}
    return TraceQueries(
        path,
        keys,
        together,
        np.concatenate(labels) if labels else None,
        sparse.vstack(words, "csr") if words else None,
    )


def _row_keys(batch: pa.RecordBatch, key: str | None, path: Path, first: int) -> list[str]:
    if key is None:
        return [f"{path.name}#{first + row}" for row in range(batch.num_rows)]
    return [str(value) for value in plain(batch.column(key)).to_pylist()]


def _check_feature(shard: Shard, encoder: Encoder) -> None:
    name = encoder.column
    if name not in shard.schema.names:
        known = ", ".join(shard.schema.names[:20])
        raise InputError(
            f"{shard.path}: no column {name!r}",
            f"Queries need all feature columns of the run; the columns here: {known}.",
        )
    found = encoder.misfit(value_type(shard.schema.field(name).type))
    if found is not None:
        what, hint = found
        raise InputError(f"{shard.path}: column {name!r} {what}", hint)


def _encode_features(
    encoding: Encoding, batch: pa.RecordBatch, path: str, first: int
) -> dict[str, np.ndarray]:
    for encoder in encoding.features:
        fresh: Any = dataclasses.replace(encoder)  # type: ignore[type-var]  # its checks count rows
        column = batch.column(encoder.column)
        faults = _attempt(
            lambda fresh=fresh, column=column: fresh.update(column, np.zeros(len(column), dtype=bool)),
            path,
            encoder.column,
        )
        if faults:
            raise InputError(
                f"{path}, row {first + int(faults[0].places[0]):,}: column {encoder.column!r} {faults[0].what}",
                faults[0].hint,
            )
    return encoding.encode_inputs(batch)


def _encode_labels(encoding: Encoding, column: pa.Array, path: str, first: int) -> np.ndarray:
    missing = np.flatnonzero(missing_labels(column))
    if len(missing):
        raise InputError(
            f"{path}, row {first + int(missing[0]):,}: label {encoding.label.column!r} is null",
            "Fill it in; without the column, each query is about the model's own prediction.",
        )
    name = encoding.label.column

    def encoded() -> np.ndarray:
        wanted = column
        if encoding.task == "classification":
            wanted = plain(column).cast(pa.type_for_alias(encoding.label.type))
        return encoding.label.encode(wanted)

    try:
        return _attempt(encoded, path, name)
    except InputError as error:
        if error.message.startswith(path):
            raise
        known = ", ".join(repr(value) for value in encoding.classes[:10])
        raise InputError(f"{path}: {error.message}", f"The classes are {known}.") from None


def _attempt(work: Any, path: str, name: str) -> Any:
    """Call `work()`; a conversion that fails becomes an InputError about the column."""
    try:
        return work()
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: column {name!r} can't be encoded ({reason})",
            "Give the column the type that it has in the train shards.",
        ) from None
