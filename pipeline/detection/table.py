"""Writing signals.parquet and rows.parquet: one line per audited row, in the order of the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.compute.worker import run_config, run_data
from pipeline.data.catalog import read_catalog
from pipeline.detection.combination import Signal
from pipeline.detection.halves import Opinion
from pipeline.run import write_atomically

ROW_GROUP = 65536


def write_signals(run_path: Path, signals: list[Signal]) -> None:
    keys = read_catalog(run_path, "train", ["row_key"])
    columns = {"row_key": keys["row_key"]} | {signal.name: pa.array(signal.values) for signal in signals}
    with write_atomically(run_path / "signals.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary, row_group_size=ROW_GROUP, compression="zstd")


def source_labels(run_path: Path, catalog: pa.Table) -> pa.ChunkedArray:
    """The label column of the catalog's rows, as the source has it."""
    label = run_config(run_path).data.label
    parts = []
    for shard in pc.unique(catalog["shard"]).to_pylist():
        rows = catalog.filter(pc.field("shard") == shard)["row"].to_numpy()
        column = pq.read_table(shard, columns=[label])[label].combine_chunks()
        taken = column.take(pa.array(rows))
        parts.append(taken.dictionary_decode() if pa.types.is_dictionary(taken.type) else taken)
    return pa.chunked_array(parts)


def conflicting_duplicates(run_path: Path) -> np.ndarray:
    """bool `[train rows]`: the same features occur in the train set with another label."""
    catalog = read_catalog(run_path, "train", ["features_hash", "content_hash"])
    features = catalog["features_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    contents = catalog["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    pairs = np.unique(np.stack([features, contents], axis=1), axis=0)
    return np.bincount(pairs[:, 0])[features] > 1


def write_rows(
    run_path: Path,
    scores: dict[str, np.ndarray],
    means: dict[str, np.ndarray | None],
    ranking: np.ndarray,
    opinion: Opinion,
    contradicted: np.ndarray,
    decision: np.ndarray,
    codes: list[list[str]],
    backdoor_scores: np.ndarray | None,
) -> None:
    """rows.parquet: docs/run-directory.md says what each column means."""
    encoding, rows = run_data(run_path).encoding, len(ranking)
    catalog = read_catalog(run_path, "train", ["row_key", "shard", "row", "split"])
    labels = source_labels(run_path, catalog)
    suggested = encoding.decode_labels(opinion.best).cast(labels.type)
    known = ~np.isnan(opinion.probability)
    columns = {
        "row_key": catalog["row_key"],
        "shard": catalog["shard"],
        "row": catalog["row"],
        "split": catalog["split"],
        "label": labels,
        "predicted_label": encoding.decode_labels(scores["prediction"]).cast(labels.type),
        "suggested_label": pc.if_else(pa.array(contradicted), suggested, pa.scalar(None, labels.type)),
        "suggested_probability": pa.array(opinion.probability, mask=~(contradicted & known)),
        "self_influence": pa.array(scores["self_influence"]),
        "validation_harm": nullable(scores["validation_harm"], rows),
        "mean_loss": nullable(means["mean_loss"], rows),
        "final_loss": pa.array(scores["final_loss"]),
        "mean_margin": nullable(means["mean_margin"], rows),
        "suspicion": pa.array(ranking),
        "backdoor_score": nullable(backdoor_scores, rows),
        "decision": pa.array(decision.astype(object), pa.string()),
        "reasons": pa.array(codes, pa.list_(pa.string())),
    }
    with write_atomically(run_path / "rows.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary, row_group_size=ROW_GROUP, compression="zstd")


def nullable(values: np.ndarray | None, rows: int) -> pa.Array:
    """Null throughout where a score does not exist."""
    if values is None or np.isnan(values).all():
        return pa.nulls(rows, pa.float64())
    return pa.array(values)
