"""A folder of pictures: a row a picture, with the subfolder as its label, and what a table beside them says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.formats.folders import is_picture, tables_in
from pipeline.data.formats.format import BLOCK_BYTES, BLOCK_ROWS, Content, Edits, ReorderingFormat
from pipeline.data.formats.registry import format_of
from pipeline.data.names import role_word
from pipeline.errors import InputError

IMAGE, PATH, LABEL = "image", "path", "label"
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
METADATA = {b"huggingface": json.dumps({"info": {"features": {IMAGE: {"_type": "Image"}}}}).encode()}
NAMES = ("file_name", "filename", "path", "file", "image")
"""Columns of a table beside pictures that name the picture, the likeliest first."""


@dataclass
class Table:
    """A table beside pictures: its rows by the picture's path, relative to the folder of pictures."""

    path: Path
    rows: pa.Table
    names: str  # the column that names the picture
    places: dict[str, int]


@dataclass
class Pictures:
    """What a folder holds.

    Attributes:
        paths: of the pictures, relative to the folder, sorted; then those that only a table names.
        classes: the label of each by its subfolder; empty where no picture has one.
        table: beside the pictures, or None.
    """

    paths: list[str]
    classes: list[str | None] = field(default_factory=list)
    table: Table | None = None


class PictureFolder(ReorderingFormat):
    name = "a folder of pictures"
    suffixes = ()

    def read(self, path: Path, schema: pa.Schema | None = None) -> Content:  # noqa: ARG002
        """Columns: `image` (bytes as they are in the file, and the path), `path`, `label` if there are subfolders or
        the table has it, and the other columns of the table.

        A picture that the table names and that is not there has no bytes.
        """
        found = _look(path)
        fields = [pa.field(IMAGE, STRUCT), pa.field(PATH, pa.string())]
        if found.classes:
            fields.append(pa.field(LABEL, pa.string()))
        taken = {each.name for each in fields} | ({found.table.names} if found.table else set())
        more = [each for each in found.table.rows.schema if each.name not in taken] if found.table else []
        notes = []
        if found.table:
            missing = sum(each not in found.table.places for each in found.paths)
            if missing:
                notes.append(
                    f"{path}: {missing:,} of {len(found.paths):,} pictures are not in {found.table.path.name}"
                )
        return Content(pa.schema(fields + more, metadata=METADATA), _batches(path, found, more), notes)

    def write(self, source: Path, edits: Edits, target: Path) -> None:
        """Copies of the pictures that stay; one with another label goes to the subfolder of its new class."""
        found = _look(source)
        removed, labels = edits.by_row()
        moved: dict[str, str] = {}
        by_folder = bool(found.classes) and edits.column == LABEL
        there = set(found.paths)
        for row, path in enumerate(found.paths):
            if row in removed or not (source / path).is_file():
                continue
            new = path
            if by_folder and row in labels:
                new = _in_class(path, _depth(found.paths), str(labels[row]), there)
                there.add(new)
                moved[path] = new
            (target / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / new)
        if found.table:
            _write_table(found, edits, moved, target)

    def beside(self, path: Path) -> list[Path]:
        return tables_in(path.absolute().parent)

    def row_hashes(self, batch: pa.RecordBatch) -> list[str]:
        """Of all but the paths, which change for a picture of another class."""
        rows = batch.drop_columns([PATH]).to_pylist()
        images = [hashlib.sha256(row.pop(IMAGE)["bytes"] or b"").hexdigest() for row in rows]
        return [f"{image} {json.dumps(row, default=str)}" for image, row in zip(images, rows)]


def _look(folder: Path) -> Pictures:
    """Raises InputError for a folder without pictures, and for a table that names none of them."""
    files = sorted(
        os.path.relpath(Path(place) / name, folder)
        for place, _, names in os.walk(folder)
        for name in names
        if is_picture(Path(name)) and not name.startswith((".", "_"))
    )
    if not files:
        raise InputError(
            f"{folder}: no pictures in it", "Give a folder with pictures, or one with data files."
        )
    depth = _depth(files)
    parts = [Path(file).parts for file in files]
    classes = [each[depth] if len(each) > depth + 1 else None for each in parts]
    table = _table(folder)
    if table is not None:
        if not any(file in table.places for file in files):
            raise InputError(
                f"{table.path}: none of its {len(table.places):,} names in {table.names!r} is a picture in {folder}",
                f"Name them relative to the table, as {files[0]!r}.",
            )
        missing = sorted(set(table.places) - set(files))
        files, classes = files + missing, classes + [None] * len(missing)
    has_label = table is not None and LABEL in table.rows.column_names
    return Pictures(files, [] if has_label or not any(classes) else classes, table)


def _depth(files: list[str]) -> int:
    """How many folders all pictures have in common before the classes begin."""
    folders = [Path(file).parts[:-1] for file in files]
    depth = 0
    while all(len(each) > depth + 1 for each in folders) and len({each[depth] for each in folders}) == 1:
        depth += 1
    return depth


def _table(folder: Path) -> Table | None:
    """The table in a folder of pictures, or in the one above if its names begin with the folder's.

    Raises:
        InputError: there are two, no column names pictures, or a name is there twice.
    """
    for home in (folder, folder.absolute().parent):
        files = tables_in(home)
        if len(files) > 1 and home == folder:
            raise InputError(
                f"{home}: two tables about pictures, {files[0].name} and {files[1].name}", "Keep one."
            )
        if not files:
            continue
        kind = format_of(files[0])
        assert kind is not None, "tables beside pictures are text"
        content = kind.read(files[0])
        rows = pa.Table.from_batches(content.batches, content.schema)
        names = next((name for name in NAMES if name in rows.column_names), None)
        if names is None and home != folder:
            continue  # a table about something else
        if names is None:
            raise InputError(
                f"{files[0]}: no column names the pictures (it has {', '.join(rows.column_names[:10])})",
                f"Call it {NAMES[0]}.",
            )
        before = "" if home == folder else f"{folder.absolute().name}/"
        places: dict[str, int] = {}
        for row, name in enumerate(rows[names].to_pylist()):
            path = os.path.normpath(str(name))
            if not path.startswith(before):
                continue
            if path.removeprefix(before) in places:
                raise InputError(
                    f"{files[0]}: the picture {path!r} is there twice", "Keep one of the two lines."
                )
            places[path.removeprefix(before)] = row
        if places:
            return Table(files[0], rows, names, places)
    return None


def _batches(folder: Path, found: Pictures, more: list[pa.Field]) -> Iterator[pa.RecordBatch]:
    """The rows; the name of a folder of a role begins their paths, so that these are unique over all roles."""
    name = folder.absolute().name
    before = f"{name}/" if role_word(name) else ""
    rows: list[int] = []
    images: list[dict[str, Any]] = []
    size = 0
    for row, path in enumerate(found.paths):
        content = (folder / path).read_bytes() if (folder / path).is_file() else None
        rows.append(row)
        images.append({"bytes": content, "path": path})
        size += len(content or b"")
        if size > BLOCK_BYTES or len(rows) == BLOCK_ROWS:
            yield _batch(found, rows, images, more, before)
            rows, images, size = [], [], 0
    if rows:
        yield _batch(found, rows, images, more, before)


def _batch(
    found: Pictures, rows: list[int], images: list[dict[str, Any]], more: list[pa.Field], before: str
) -> pa.RecordBatch:
    """before: what the paths of the rows begin with."""
    paths = [found.paths[row] for row in rows]
    columns: dict[str, pa.Array] = {
        IMAGE: pa.array(images, STRUCT),
        PATH: pa.array([before + path for path in paths]),
    }
    if found.classes:
        columns[LABEL] = pa.array([found.classes[row] for row in rows], pa.string())
    if found.table:
        places = pa.array([found.table.places.get(path) for path in paths], pa.int64())
        for each in more:
            columns[each.name] = found.table.rows[each.name].combine_chunks().take(places)
    schema = pa.schema([*(pa.field(name, columns[name].type) for name in columns)], metadata=METADATA)
    return pa.record_batch(list(columns.values()), schema=schema)


def _in_class(path: str, depth: int, label: str, there: set[str]) -> str:
    """The path of a picture in the subfolder of another class; a name that is taken there gets its old class."""
    parts = list(Path(path).parts)
    old = parts[depth] if len(parts) > depth + 1 else ""
    inner = parts[depth + 1 :] if old else parts[-1:]
    new = Path(*parts[:depth], label, *inner)
    if str(new) in there:
        new = new.with_name(f"{new.stem}-from-{old}{new.suffix}")
    return str(new)


def _write_table(found: Pictures, edits: Edits, moved: dict[str, str], folder: Path) -> None:
    """The table with the pictures that stay, in its own format, in the new folder.

    First the names change, of moved pictures and of those that began with the folder's name, then the labels.
    """
    table = found.table
    assert table is not None, "asked only with a table"
    removed, labels = edits.by_row()
    rows = {path: row for row, path in enumerate(found.paths)}
    kind = format_of(table.path)
    assert kind is not None, "tables beside pictures are text"
    target = folder / table.path.name
    of_others = set(range(table.rows.num_rows)) - set(table.places.values())
    given = table.rows[table.names].to_pylist()
    names = {place: moved.get(path, path) for path, place in table.places.items()}
    names = {place: name for place, name in names.items() if os.path.normpath(str(given[place])) != name}
    new_labels = {}
    if edits.column in table.rows.column_names:
        new_labels = {
            place: labels[rows[path]] for path, place in table.places.items() if rows[path] in labels
        }
    gone = of_others | {place for path, place in table.places.items() if rows[path] in removed}
    first = target.with_name(f"_{target.name}")
    kind.write(table.path, _of_table(set(), names, table, table.names), first)
    kind.write(first, _of_table(gone, new_labels, table, edits.column), target)
    first.unlink()


def _of_table(gone: set[int], values: dict[int, Any], table: Table, column: str) -> Edits:
    places = sorted(values)
    known = column in table.rows.column_names
    kind = table.rows.schema.field(column).type if known else pa.string()
    new = pa.array([values[place] for place in places], kind)
    column = column if known else table.names
    return Edits(np.array(sorted(gone), dtype=np.int64), np.array(places, dtype=np.int64), new, column)
