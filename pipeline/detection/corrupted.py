"""Finds rows with broken features, whatever their label. They go to review even if no ranking finds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.catalog import catalog_tables
from pipeline.data.encoded import Chunk
from pipeline.detection.table import ColumnReader
from pipeline.features.encoder import Encoder
from pipeline.runs.context import AuditContext
from pipeline.workers.worker import run_data

Marks = tuple[np.ndarray, ...]


def corrupted_rows(context: AuditContext) -> np.ndarray:
    """Find train rows with broken features, bool `[train rows]`.

    Broken are an empty or cut-off image, an impossible number or a sentinel, a flat or saturated list, a text without
    content, and what an encoder of another kind marks.
    """
    data = run_data(context.run.path)
    found = np.zeros(data.count("train"), dtype=bool)
    for place, encoder in enumerate(data.encoding.features):
        if encoder.odd_in:
            read = _encoded_marks if encoder.odd_in == "encoded" else _source_marks
            marks = zip(*read(context, encoder, place))
            found |= encoder.broken(*(np.concatenate(each) for each in marks))
    return found


def _encoded_marks(context: AuditContext, encoder: Encoder, place: int) -> list[Marks]:
    """The marks of a feature's encoded rows, chunk by chunk, from the workers; `place` is the feature's index."""
    path = context.run.path
    chunks = run_data(path).chunks("train")
    names = [f"broken values of {encoder.column}: chunk {chunk.id}" for chunk in chunks]
    return context.workers.run(_mark_chunk, [(path, chunk, place) for chunk in chunks], names)


def _mark_chunk(run_path: Path, chunk: Chunk, place: int) -> Marks:
    """The marks of a chunk for the feature with index `place` (a task for a worker)."""
    data = run_data(run_path)
    inputs = data.encoding.by_name(data.load(chunk).inputs)
    encoder, part = list(data.encoding.parts(inputs))[place]
    return encoder.marks(part)


def _source_marks(context: AuditContext, encoder: Encoder, place: int) -> Iterator[Marks]:  # noqa: ARG001
    """The marks of a feature's values in the source files, some thousand rows at a time."""
    for values in source(context.run.path, encoder.column):
        yield encoder.marks(values)


def source(run_path: Path, column: str) -> Iterator[pa.Array]:
    """A source column of the train rows, in their order, some thousand rows at a time."""
    shard, reader = None, None
    for table in catalog_tables(run_path, "train", ["shard", "row"]):
        name = table["shard"][0].as_py()
        if reader is None or name != shard:
            shard, reader = name, ColumnReader(name, column)
        yield reader.take(table["row"].to_numpy()).combine_chunks()
