"""Arrow IPC files and streams, Feather, and the data files of Hugging Face datasets, which are such streams."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.formats.folders import INFO
from pipeline.data.formats.format import BLOCK_ROWS, Content, Edits, Format
from pipeline.errors import InputError
from pipeline.features.arrow import with_values

FILE_MAGIC, FEATHER_1 = b"ARROW1", b"FEA1"
HUGGING_FACE = b"huggingface"


class Arrow(Format):
    name = "Arrow or Feather"
    suffixes = (".arrow", ".feather", ".ipc", ".arrows")

    def read(self, path: Path, schema: pa.Schema | None = None) -> Content:
        """Columns of types that Parquet can't hold are left out; an export in the format of the source has them."""
        with _opened(path) as (_, whole):
            kept = [field for field in whole if _fits_parquet(field)]
        left = [field for field in whole if field not in kept]
        notes = [f"{path}: column {field.name!r} is {field.type}, and is left out" for field in left]
        found = pa.schema(kept, metadata=_metadata(path, whole))
        return Content(schema or found, _batches(path, schema or found), notes)

    def write(self, source: Path, edits: Edits, target: Path) -> None:
        with _opened(source) as (batches, schema), target.open("wb") as out:
            new = pa.ipc.new_file if _begins(source, FILE_MAGIC) else pa.ipc.new_stream
            packed = pa.ipc.IpcWriteOptions(compression="lz4" if source.suffix == ".feather" else None)
            with new(out, schema, options=packed) as writer:
                first = 0
                for batch in batches:
                    writer.write_batch(_edited(batch, first, edits))
                    first += batch.num_rows


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Iterator[pa.RecordBatch], pa.Schema]]:
    """The batches and the schema of a file or stream.

    Raises:
        InputError: it is neither, or cut short.
    """
    try:
        if _begins(path, FEATHER_1):
            raise InputError(
                f"{path}: Feather of version 1", "Write it again with pyarrow.feather, or as Parquet."
            )
        with pa.memory_map(str(path)) as source:
            if _begins(path, FILE_MAGIC):
                file = pa.ipc.open_file(source)
                yield (file.get_batch(place) for place in range(file.num_record_batches)), file.schema
            else:
                stream = pa.ipc.open_stream(source)
                yield iter(stream), stream.schema
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not an Arrow file or stream, or cut short ({reason})", "Write or copy it again."
        ) from None


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _fits_parquet(field: pa.Field) -> bool:
    empty = pa.schema([field]).empty_table()
    try:
        pq.write_table(empty, io.BytesIO())
    except (pa.ArrowException, NotImplementedError):
        return False
    return True


def _metadata(path: Path, schema: pa.Schema) -> dict[bytes, bytes] | None:
    """The schema's metadata, with the features that a Hugging Face dataset keeps beside its data."""
    metadata, beside = dict(schema.metadata or {}), path.with_name(INFO)
    if HUGGING_FACE not in metadata and beside.exists():
        try:
            features = json.loads(beside.read_text(encoding="utf-8"))["features"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{beside}: can't be read ({reason})", "Save the dataset again.") from None
        metadata[HUGGING_FACE] = json.dumps({"info": {"features": features}}).encode()
    return metadata or None


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with _opened(path) as (batches, _):
        for batch in batches:
            for first in range(0, batch.num_rows, BLOCK_ROWS):
                columns = [batch.column(name) for name in schema.names]
                piece = pa.record_batch(columns, schema=schema)
                yield piece.slice(first, BLOCK_ROWS)


def _edited(batch: pa.RecordBatch, first: int, edits: Edits) -> pa.RecordBatch:
    """The batch without removed rows, with the new labels, in its own schema.

    A file may not change a dictionary between batches, so that all batches get all of the new labels.
    """
    places, labels = edits.new_labels(first, batch.num_rows)
    at = batch.schema.get_field_index(edits.column)
    if len(edits.labels):
        column = with_values(batch.column(at), places, labels, edits.labels.unique())
        batch = batch.set_column(at, batch.schema.field(at), column)
    stays = edits.stays(first, batch.num_rows)
    return batch if stays.all() else batch.filter(pa.array(stays))
