"""Writes signals.parquet and rows.parquet part by part, with one line per audited row.

Train rows come first, then validation, then holdout rows, each in the order of the encoded rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES, AuditConfig
from pipeline.data.catalog import catalog_tables
from pipeline.data.encoded import EncodedData
from pipeline.data.formats.sources import open_source
from pipeline.data.hashing import ids_of_hex, with_several
from pipeline.detection.columns import StoredColumn
from pipeline.detection.reasons import in_words
from pipeline.detection.suspicion import SignalValues
from pipeline.features.arrow import plain
from pipeline.runs.directory import write_atomically
from pipeline.scoring.attribute import scores_path
from pipeline.text.decisions import DECIDERS, DECISIONS, Decider, Decision
from pipeline.workers.worker import run_config, run_data

ROW_GROUP = 65536
SCORES = ("self_influence", "validation_harm", "final_loss", "prediction")


@dataclass(frozen=True)
class Judgement:
    """What detection found about every row of a role (docs/reference/run-directory.md); arrays are `[rows]`.

    Attributes:
        suspicion: float64.
        suggested: encoded labels; they count for rows whose given label is contradicted.
        suggested_probability: float64, of the suggested label; NaN if unknown.
        contradicted: bool, whether the suggested label fits better than the given one.
        decision: uint8, Decisions.
        reasons: uint16, bits of the reasons.
        backdoor_scores: float; None without a search for backdoors.
        mean_loss: float64; None if unknown.
        mean_margin: float64; None if unknown.
        decided_by: uint8, Deciders; None means the rule, for all rows that are not kept.
        own_labels: place among the rows of the role → the label that a person gave, in the type of the source.
        removal_effect, relabel_effect: float64, nats; NaN without a forecast.
        predicted, final_loss: encoded labels and float64, for rows that were in no training (train rows have theirs in
            scores/); None if unknown.
    """

    suspicion: np.ndarray
    suggested: np.ndarray
    suggested_probability: np.ndarray
    contradicted: np.ndarray
    decision: np.ndarray
    reasons: np.ndarray
    backdoor_scores: np.ndarray | None = None
    mean_loss: np.ndarray | StoredColumn | None = None
    mean_margin: np.ndarray | StoredColumn | None = None
    decided_by: np.ndarray | None = None
    own_labels: Mapping[int, Any] = field(default_factory=dict)
    removal_effect: np.ndarray | StoredColumn | None = None
    relabel_effect: np.ndarray | StoredColumn | None = None
    predicted: np.ndarray | None = None
    final_loss: np.ndarray | StoredColumn | None = None

    @property
    def deciders(self) -> np.ndarray:
        """Who decided about each row, uint8 `[rows]`, Deciders."""
        if self.decided_by is not None:
            return self.decided_by
        return np.where(self.decision == Decision.KEEP, Decider.NOBODY, Decider.RULE).astype(np.uint8)


def judged_roles(config: AuditConfig, data: EncodedData) -> list[str]:
    """The roles in rows.parquet: those with rows whose labels are not declared right."""
    return [role for role in ROLES if data.count(role) and not config.data.labels_are_clean(role)]


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables (at least one) to a Parquet file; each is a row group, and the first one gives the types."""
    with write_atomically(path) as temporary:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema), row_group_size=ROW_GROUP)
        assert writer is not None
        writer.close()


def in_parts(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of all tables in tables of ROW_GROUP rows."""
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


def write_signals(run_path: Path, signals: Mapping[str, list[SignalValues]]) -> None:
    """Write signals.parquet, with the rows of rows.parquet in the same order.

    Args:
        run_path: the run directory.
        signals: role → its signals; if a role lacks a signal, its rows have nulls.
    """
    kinds = {each.name: each.values.dtype for role in ROLES for each in signals.get(role, [])}

    def tables() -> Iterator[pa.Table]:
        for role in ROLES:
            of_role, done = {signal.name: signal.values for signal in signals.get(role, [])}, 0
            if not of_role:
                continue
            for keys in in_parts(catalog_tables(run_path, role, ["row_key"])):
                place = slice(done, done + keys.num_rows)
                done = place.stop
                columns = {
                    name: pa.array(of_role[name][place])
                    if name in of_role
                    else pa.nulls(keys.num_rows, pa.from_numpy_dtype(kind))
                    for name, kind in kinds.items()
                }
                yield pa.table({"row_key": keys["row_key"]} | columns)

    write_tables(run_path / "signals.parquet", tables())


class ColumnReader:
    """Reads values of a shard's column by row number; row numbers must ascend, and earlier values are dropped."""

    def __init__(self, shard: str, column: str):
        self._batches = open_source(shard).iter_batches(ROW_GROUP, columns=[column])
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
    """Yield the catalog tables, each of one shard, with the label column of the source."""
    shard, reader = None, None
    for table in tables:
        name = table["shard"][0].as_py()
        if reader is None or name != shard:
            shard, reader = name, ColumnReader(name, label)
        yield table.append_column("label", reader.take(table["row"].to_numpy()))


def conflicting_duplicates(run_path: Path, role: str = "train") -> np.ndarray:
    """Rows whose features also occur with another label in train or in the role, bool `[rows of the role]`.

    The result for train rows does not depend on other roles.
    """
    data = run_data(run_path)
    roles, done = list(dict.fromkeys(["train", role])), 0
    features, contents = np.empty((2, sum(map(data.count, roles))), dtype=np.int64)
    for each in roles:
        for table in catalog_tables(run_path, each, ["features_hash", "content_hash"]):
            place = slice(done, done + table.num_rows)
            done = place.stop
            features[place], contents[place] = (
                ids_of_hex(column.combine_chunks()) for column in table.columns
            )
    return with_several(features, contents)[done - data.count(role) :]


def write_rows(run_path: Path, judgements: Mapping[str, Judgement | None]) -> None:
    """Write rows.parquet; docs/reference/run-directory.md explains the columns.

    Args:
        run_path: the run directory.
        judgements: role → findings about its rows; train is required. Roles without findings, and roles whose labels
            are declared right, are left out.
    """
    label = run_config(run_path).data.label
    roles = judged_roles(run_config(run_path), run_data(run_path))
    columns = ["row_key", "shard", "row"]

    def tables() -> Iterator[pa.Table]:
        for role in roles:
            judgement, done = judgements.get(role), 0
            if judgement is None:
                continue
            lines = in_parts(with_labels(catalog_tables(run_path, role, columns), label))
            scored = in_parts(_train_scores(run_path)) if role == "train" else None
            for places in lines:
                place = slice(done, done + places.num_rows)
                done = place.stop
                scores = next(scored) if scored is not None else None
                yield _rows_table(run_path, role, judgement, place, places, scores)

    write_tables(run_path / "rows.parquet", tables())


def _train_scores(run_path: Path) -> Iterator[pa.Table]:
    for chunk in run_data(run_path).chunks("train"):
        yield pq.read_table(scores_path(run_path, chunk), columns=list(SCORES))


def _rows_table(
    run_path: Path, role: str, judgement: Judgement, place: slice, places: pa.Table, scored: pa.Table | None
) -> pa.Table:
    """The table of some rows of a role.

    Args:
        run_path: the run directory.
        role: of the rows.
        judgement: the findings about the role.
        place: the rows.
        places: row_key, shard, row and label of these rows.
        scored: the columns SCORES of these rows; None if they were in no training.
    """
    encoding, labels, rows = run_data(run_path).encoding, places["label"], places.num_rows
    contradicted, probability = judgement.contradicted[place], judgement.suggested_probability[place]
    suggested = encoding.decode_labels(judgement.suggested[place]).cast(labels.type)
    suggested = pc.if_else(pa.array(contradicted), suggested, pa.scalar(None, labels.type))
    nothing, decision = pa.nulls(rows, pa.float64()), judgement.decision[place]
    if scored is not None:
        predicted = encoding.decode_labels(_predictions(scored["prediction"])).cast(labels.type)
    elif judgement.predicted is not None:
        predicted = encoding.decode_labels(judgement.predicted[place]).cast(labels.type)
    else:
        predicted = pa.nulls(rows, labels.type)
    columns = {
        "row_key": places["row_key"],
        "shard": places["shard"],
        "row": places["row"],
        "split": pa.repeat(role, rows),
        "label": labels,
        "predicted_label": predicted,
        "suggested_label": suggested,
        "suggested_probability": pa.array(probability, mask=~contradicted | np.isnan(probability)),
        "self_influence": nothing if scored is None else scored["self_influence"],
        "validation_harm": nothing if scored is None else scored["validation_harm"],
        "mean_loss": _nullable(judgement.mean_loss, place, rows),
        "final_loss": _nullable(judgement.final_loss, place, rows)
        if scored is None
        else scored["final_loss"],
        "mean_margin": _nullable(judgement.mean_margin, place, rows),
        "suspicion": pa.array(judgement.suspicion[place]),
        "backdoor_score": _nullable(judgement.backdoor_scores, place, rows),
        "decision": pa.array(DECISIONS, pa.string()).take(pa.array(decision)),
        "proposed": pa.nulls(rows, pa.string()),
        "new_label": _new_labels(judgement, place, suggested),
        "decided_by": pa.array(DECIDERS, pa.string()).take(pa.array(judgement.deciders[place])),
        "reasons": in_words(judgement.reasons[place]),
        "removal_effect": _nullable(judgement.removal_effect, place, rows),
        "relabel_effect": _nullable(judgement.relabel_effect, place, rows),
    }
    return pa.table(columns)


def _new_labels(judgement: Judgement, place: slice, suggested: pa.Array) -> pa.Array:
    """The new labels of relabelled rows (a person's label, or else the suggestion); null for all other rows."""
    relabelled = pa.array(judgement.decision[place] == Decision.RELABEL)
    found = pc.if_else(relabelled, suggested, pa.scalar(None, suggested.type))
    own = {
        at - place.start: new for at, new in judgement.own_labels.items() if place.start <= at < place.stop
    }
    if not own:
        return found
    given = pa.array([own.get(at) for at in range(len(found))], suggested.type)
    is_own = np.zeros(len(found), dtype=bool)
    is_own[list(own)] = True
    return pc.if_else(pc.and_(pa.array(is_own), relabelled), given, found)


def _predictions(column: pa.ChunkedArray) -> np.ndarray:
    """A column of predictions as an array: encoded labels `[rows]`, or sets `[rows, labels]`."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(-1, column.type.list_size)


def _nullable(values: np.ndarray | StoredColumn | None, place: slice, rows: int) -> pa.Array:
    """The values of some rows as an Arrow array; NaN becomes null, and all are null if `values` is None."""
    if values is None:
        return pa.nulls(rows, pa.float64())
    part = np.asarray(values[place])
    missing = np.isnan(part)
    return pa.nulls(rows, pa.float64()) if missing.all() else pa.array(part, mask=missing)
