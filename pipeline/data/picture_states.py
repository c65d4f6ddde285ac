"""The state of pictures that stand in files of their own, so that a changed picture makes an audit anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Data
from pipeline.data.files import Shard, find_files, open_shards, read_runs
from pipeline.features.arrow import is_string, plain
from pipeline.features.picture_files import has_ending, is_address, placed, reads_files
from pipeline.features.registry import is_import_path

PICTURES = ("image", "encoded image")
"""The kinds whose strings are always paths of pictures."""
ROWS_AT_ONCE = 10_000
PEEKED = 100


def picture_states(data: Data) -> str | None:
    """A hash of path, size and modification time of all pictures that the features name by their paths.

    Returns:
        None if the features name none.

    Raises:
        InputError: a source can't be read.
    """
    columns = [name for name in data.features if _may_be_pictures(data.kind_of(name))]
    if not columns:
        return None
    shards = open_shards(find_files(data))
    found, any_path = hashlib.sha256(), False
    for name in columns:
        if not _names_pictures(shards, name, data.kind_of(name)):
            continue
        for path in _paths(shards, name, data.image_root):
            any_path = True
            found.update(f"{path}\0{_state(path)}\n".encode())
    return found.hexdigest() if any_path else None


def _may_be_pictures(kind: str) -> bool:
    """Whether a feature of this kind may be a picture: one, one that the type decides, or a kind of the user's own."""
    return kind == "auto" or kind in PICTURES or is_import_path(kind)


def _names_pictures(shards: list[Shard], name: str, kind: str) -> bool:
    """Whether a column may have paths; strings whose kind is not said must end as names of pictures do."""
    first = next((shard for shard in shards if name in shard.schema.names), None)
    if first is None:
        return False
    of = first.type_of(name)
    if pa.types.is_struct(of):
        return True
    if not is_string(of) or kind in PICTURES:
        return is_string(of)
    for shard in shards:
        for run in read_runs(shard, [name], PEEKED):
            texts = pc.drop_null(plain(run.batch.column(0))).to_pylist()
            if texts:
                return all(map(has_ending, texts))
    return False


def _paths(shards: list[Shard], name: str, root: str | None) -> Iterator[str]:
    for shard in shards:
        for run in read_runs(shard, [name], ROWS_AT_ONCE):
            column = run.batch.column(0)
            if not reads_files(column):
                continue
            values = placed(column, root or str(Path(shard.path).parent))
            if pa.types.is_struct(values.type):
                values = pc.struct_field(values, "path").filter(pc.is_null(pc.struct_field(values, "bytes")))
            yield from (path for path in values.to_pylist() if path is not None and not is_address(path))


def _state(path: str) -> tuple[int, int] | None:
    """Size and modification time; None where there is no such file."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # ValueError: a null character
        return None
    return found.st_size, found.st_mtime_ns
