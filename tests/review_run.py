"""A small run directory whose detection is done, to review: 300 texts, the 60 most suspicious with wrong labels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.catalog import write_catalog
from pipeline.data.files import find_files, open_shards
from pipeline.data.hashing import key_ids
from pipeline.data.prepare import create_encoding
from pipeline.detection.rules.choose import write_candidates
from pipeline.detection.rules.decide import Ranked, removable
from pipeline.runs.directory import RunDirectory, write_json

ROWS = 300
WRONG = 60
TREE = {
    "name": "small",
    "data": {"train": "train.parquet", "features": {"text": "text"}, "label": "label", "key": "id"},
}


def make_run(folder: Path) -> RunDirectory:
    """In `folder`, which has to be the working directory: the shard is named relative to it."""
    keys = [f"k{place}" for place in range(ROWS)]
    texts = [f"{place}: a line\nand another, with a comma" for place in range(ROWS)]
    labels = [place % 2 for place in range(ROWS)]
    pq.write_table(pa.table({"id": keys, "text": texts, "label": labels}), "train.parquet")
    run = RunDirectory(folder / "run")
    config = AuditConfig.model_validate(TREE)
    run.path.mkdir()
    (run / "config.yaml").write_text(config.to_yaml())
    shards = open_shards(find_files(config.data))
    create_encoding(shards, config).save(run / "encoding.json")
    rows = np.arange(ROWS)
    with write_catalog(run.path) as catalog:
        catalog.add(shards[0], rows, keys, key_ids(keys), key_ids(texts), np.zeros(ROWS, dtype=np.uint8))
    write_json(run / "record.json", {"stages": {"detect": {"facts": {"review": 80}}}})
    write_candidates(run.path, removable(config.detection, ranked()))
    suggested = [1 - label if place < WRONG else None for place, label in enumerate(labels)]
    table = {
        "row_key": keys,
        "shard": ["train.parquet"] * ROWS,
        "row": range(ROWS),
        "label": labels,
        "suggested_label": suggested,
        "suggested_probability": [None if label is None else 0.83 for label in suggested],
        "suspicion": ranked().suspicion,
        "reasons": [["mislabelled"] if place < 80 else [] for place in range(ROWS)],
    }
    pq.write_table(pa.table(table), run / "rows.parquet")
    return run


def ranked() -> Ranked:
    return Ranked(
        np.linspace(0.99, 0.01, ROWS),
        key_ids([f"k{place}" for place in range(ROWS)]),
        np.arange(ROWS) % 2,
        np.full(ROWS, np.nan),
        np.zeros(ROWS, dtype=bool),
    )


def read_sheet(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def right_verdict(line: dict[str, str]) -> str:
    return "wrong" if int(line["row_key"][1:]) < WRONG else "right"


def fill(sheet: Path, verdict: Callable[[dict[str, str]], str] = right_verdict) -> Path:
    """Give every line its verdict, as somebody with a spreadsheet does."""
    lines = read_sheet(sheet)
    for line in lines:
        line["verdict"] = verdict(line)
    with sheet.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return sheet
