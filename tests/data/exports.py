"""A run directory as the stages before the export leave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.files import sha256_of
from pipeline.data.formats.sources import open_source
from pipeline.runs.directory import RunDirectory, write_json

Decided = dict[tuple[str, int], tuple[str, object]]


def config(**sections) -> AuditConfig:
    data = {"train": "*.parquet", "features": {"x": "numeric"}, "label": "label"}
    return AuditConfig.model_validate({"name": "t", "data": data, **sections})


def sha256(path: Path | str) -> str:
    return sha256_of(str(path))


def make_run(
    shards: list[str], decided: Decided, not_audited: tuple = (), verdict: str | None = None
) -> RunDirectory:
    """A run directory as the stages before leave it, for sources that are there already."""
    run = RunDirectory(Path("runs/t/1"))
    sources = [{"path": shard, "role": "train", "sha256": sha256(shard)} for shard in shards]
    write_json(run / "record.json", {"run_id": "1", "stages": {"prepare": {"facts": {"sources": sources}}}})
    write_json(run / "encoding.json", {"task": "classification"})
    if verdict:
        write_json(run / "verification.json", {"verdict": verdict})
    lines = []
    for shard in shards:
        table = open_source(shard).read()
        for row, label in enumerate(table["label"].to_pylist()):
            if (shard, row) in not_audited:
                continue
            decision, suggested = decided.get((shard, row), ("keep", None))
            lines.append((f"{shard}#{row}", shard, row, label, suggested, decision))
    label_type = table.schema.field("label").type
    label_type = label_type.value_type if pa.types.is_dictionary(label_type) else label_type
    keys, paths, rows, labels, suggestions, decisions = zip(*lines)
    flagged = [decision != "keep" for decision in decisions]
    table = pa.table(
        {
            "row_key": keys,
            "shard": paths,
            "row": pa.array(rows, pa.int64()),
            "label": pa.array(labels, label_type),
            "suggested_label": pa.array(suggestions, label_type),
            "self_influence": np.linspace(0, 1, len(lines)),
            "validation_harm": pa.nulls(len(lines), pa.float64()),
            "suspicion": np.linspace(1, 0, len(lines), dtype=np.float32),
            "decision": decisions,
            "proposed": pa.nulls(len(lines), pa.string()),
            "new_label": pa.array(
                [new if decision == "relabel" else None for new, decision in zip(suggestions, decisions)],
                label_type,
            ),
            "decided_by": pa.array(["rule" if flag else None for flag in flagged], pa.string()),
            "reasons": pa.array(
                [["mislabelled", "harmful"] if flag else [] for flag in flagged], pa.list_(pa.string())
            ),
        }
    )
    pq.write_table(table, run / "rows.parquet")
    return run
