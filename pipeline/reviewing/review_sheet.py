"""Makes the lines of a sheet that people fill in: labels, evidence, and a preview of the row."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.data.encode import features_of
from pipeline.data.originals import class_names, read_originals
from pipeline.report.content import Content, ContentReader
from pipeline.report.suggestion import suggestion
from pipeline.runs.directory import RunDirectory, write_atomically
from pipeline.text import words

COLUMNS = [
    "row_key",
    "shard",
    "row",
    "label",
    "suggested_label",
    "suggested_probability",
    "suspicion",
    "reasons",
]
PICTURE_BYTES = 2**30
PICTURES = "review/pictures"


def sheet_rows(run: RunDirectory, data: Data, keys: list[str]) -> list[dict[str, Any]]:
    """Make the lines of a sheet.

    Pictures are written to `review/pictures/` in the run; the preview of a row has the path of its picture.

    Args:
        run: the run.
        data: the section `data` of the config.
        keys: the row keys.

    Returns:
        A line for each key, in their order: row_key, label, suggested_label (with its probability), suspicion, reasons,
        preview.
    """
    wanted = pc.field("row_key").isin(pa.array(keys, pa.string()))
    table = pq.read_table(run / "rows.parquet", columns=COLUMNS, filters=wanted, partitioning=None)
    rows = {row["row_key"]: row for row in table.to_pylist()}
    originals = read_originals([(row["shard"], row["row"]) for row in rows.values()], list(data.features))
    reader, names = (
        ContentReader(originals, features_of(run), PICTURE_BYTES),
        class_names(originals.schema, data.label),
    )
    lines = []
    for key in keys:
        row = rows[key]
        there = (row["shard"], row["row"]) in originals.rows
        content = reader.read((row["shard"], row["row"])) if there else None
        lines.append(
            {
                "row_key": key,
                "label": words.label(row["label"], names),
                "suggested_label": suggestion(row, names),
                "suspicion": round(row["suspicion"], 4),
                "reasons": ", ".join(row["reasons"] or []),
                "preview": "the original can't be read" if content is None else preview(run, key, content),
            }
        )
    return lines


def preview(run: RunDirectory, key: str, content: Content) -> str:
    """The path of the picture, the texts and the most unusual values, in one line."""
    parts = [_save_picture(run, key, content.picture.uri)] if content.picture else []
    parts += [f"{name or 'text'}: {' '.join(text.split())}" for name, text in content.texts]
    parts += [f"{value.name}: {value.shown}" for value in content.values]
    return " · ".join(parts)


def _save_picture(run: RunDirectory, key: str, uri: str) -> str:
    kind, encoded = uri.removeprefix("data:image/").split(";base64,")
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = (run / PICTURES / f"{name}.{kind}").resolve()
    with write_atomically(path) as temporary:
        temporary.write_bytes(b64decode(encoded))
    return str(path)
