"""Writing signals.parquet and rows.parquet: one line per audited row, in the order of the shards, a part at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.compute.attribute import scores_path
from pipeline.compute.worker import run_config, run_data
from pipeline.data.catalog import catalog_tables
from pipeline.data.hashing import ids_of_hex, with_several
from pipeline.data.labels import plain
from pipeline.detection.columns import Column
from pipeline.detection.combination import Signal
from pipeline.detection.decisions import DECISIONS
from pipeline.detection.reasons import in_words
from pipeline.run import write_atomically

ROW_GROUP = 65536
SCORES = ("self_influence", "validation_harm", "final_loss", "prediction")


@dataclass(frozen=True)
class Judgement:
    """What detection found out about every row, all `[rows]`; the docs of rows.parquet say what it is.

    decision: places in DECISIONS; reasons: bits; suggested: encoded labels, with their probability (NaN: none), which
    hold where the given label is contradicted.
    """

    suspicion: np.ndarray
    suggested: np.ndarray
    suggested_probability: np.ndarray
    contradicted: np.ndarray
    decision: np.ndarray
    reasons: np.ndarray
    backdoor_scores: np.ndarray | None
    mean_loss: np.ndarray | Column
    mean_margin: np.ndarray | Column | None


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write the tables (equal schemas, at least one) as a Parquet file, each as a row group."""
    with write_atomically(path) as temporary:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
        assert writer is not None
        writer.close()


def in_parts(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all tables, ROW_GROUP at a time."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= ROW_GROUP:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, ROW_GROUP).combine_chunks()
            rows -= ROW_GROUP
            waiting = [whole.slice(ROW_GROUP)]
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def write_signals(run_path: Path, signals: list[Signal]) -> None:
    def tables() -> Iterator[pa.Table]:
        done = 0
        for keys in in_parts(catalog_tables(run_path, "train", ["row_key"])):
            place = slice(done, done + keys.num_rows)
            done = place.stop
            columns = {signal.name: pa.array(signal.values[place]) for signal in signals}
            yield pa.table({"row_key": keys["row_key"]} | columns)

    write_tables(run_path / "signals.parquet", tables())


class ColumnReader:
    """Values of a shard's column by their rows, which have to ascend; what is behind is forgotten."""

    def __init__(self, shard: str, column: str):
        self._batches = pq.ParquetFile(shard).iter_batches(ROW_GROUP, columns=[column])
        self._held: list[pa.Array] = []
        self._first = self._end = 0

    def take(self, rows: np.ndarray) -> pa.ChunkedArray:
        last = int(rows[-1])
        while self._end <= last:
            values = plain(next(self._batches).column(0))
            self._held.append(values)
            self._end += len(values)
        whole = pa.chunked_array(self._held)
        taken = whole.take(pa.array(rows - self._first))
        self._held = whole.slice(last + 1 - self._first).chunks
        self._first = last + 1
        return taken


def with_labels(tables: Iterable[pa.Table], label: str) -> Iterator[pa.Table]:
    """Catalog tables, each of one shard, with the label column as the source has it."""
    shard, reader = None, None
    for table in tables:
        name = table["shard"][0].as_py()
        if reader is None or name != shard:
            shard, reader = name, ColumnReader(name, label)
        yield table.append_column("label", reader.take(table["row"].to_numpy()))


def conflicting_duplicates(run_path: Path) -> np.ndarray:
    """bool `[train rows]`: the same features occur in the train set with another label."""
    rows, done = run_data(run_path).count("train"), 0
    features, contents = np.empty((2, rows), dtype=np.int64)
    for table in catalog_tables(run_path, "train", ["features_hash", "content_hash"]):
        place = slice(done, done + table.num_rows)
        done = place.stop
        features[place], contents[place] = (ids_of_hex(column.combine_chunks()) for column in table.columns)
    return with_several(features, contents)


def write_rows(run_path: Path, judgement: Judgement) -> None:
    """rows.parquet: docs/run-directory.md says what each column means."""
    data, label = run_data(run_path), run_config(run_path).data.label
    catalog = catalog_tables(run_path, "train", ["row_key", "shard", "row"])
    scores = (
        pq.read_table(scores_path(run_path, chunk), columns=list(SCORES)) for chunk in data.chunks("train")
    )

    def tables() -> Iterator[pa.Table]:
        done = 0
        for places, scored in zip(in_parts(with_labels(catalog, label)), in_parts(scores), strict=True):
            place = slice(done, done + places.num_rows)
            done = place.stop
            yield rows_table(run_path, judgement, place, places, scored)

    write_tables(run_path / "rows.parquet", tables())


def rows_table(
    run_path: Path, judgement: Judgement, place: slice, places: pa.Table, scored: pa.Table
) -> pa.Table:
    """The rows of `place`; `places`: row_key, shard, row, label; `scored`: SCORES."""
    encoding, labels, rows = run_data(run_path).encoding, places["label"], places.num_rows
    contradicted, probability = judgement.contradicted[place], judgement.suggested_probability[place]
    suggested = encoding.decode_labels(judgement.suggested[place]).cast(labels.type)
    margin, backdoor = judgement.mean_margin, judgement.backdoor_scores
    columns = {
        "row_key": places["row_key"],
        "shard": places["shard"],
        "row": places["row"],
        "split": pa.repeat("train", rows),
        "label": labels,
        "predicted_label": encoding.decode_labels(predictions(scored["prediction"])).cast(labels.type),
        "suggested_label": pc.if_else(pa.array(contradicted), suggested, pa.scalar(None, labels.type)),
        "suggested_probability": pa.array(probability, mask=~contradicted | np.isnan(probability)),
        "self_influence": scored["self_influence"],
        "validation_harm": scored["validation_harm"],
        "mean_loss": nullable(judgement.mean_loss[place], rows),
        "final_loss": scored["final_loss"],
        "mean_margin": nullable(None if margin is None else margin[place], rows),
        "suspicion": pa.array(judgement.suspicion[place]),
        "backdoor_score": nullable(None if backdoor is None else backdoor[place], rows),
        "decision": pa.array(DECISIONS, pa.string()).take(pa.array(judgement.decision[place])),
        "reasons": in_words(judgement.reasons[place]),
    }
    return pa.table(columns)


def predictions(column: pa.ChunkedArray) -> np.ndarray:
    """Encoded labels, `[rows]`, or sets, `[rows, labels]`."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(-1, column.type.list_size)


def nullable(values: np.ndarray | None, rows: int) -> pa.Array:
    """Null throughout where a score does not exist."""
    if values is None or np.isnan(values).all():
        return pa.nulls(rows, pa.float64())
    return pa.array(values)
