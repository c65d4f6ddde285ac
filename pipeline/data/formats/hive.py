"""Hive folders: what the folders above a file say of its rows, as in `label=spam/date=2024-05-01/part-0.parquet`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"
LARGEST = {pa.int32(): 2**31, pa.int64(): 2**63}


def layout(path: Path) -> tuple[Path, list[tuple[str, str]]]:
    """The root above the nearest folders that are named `key=value`, and their keys and values, outermost first."""
    folder, keys = path.parent, []
    while "=" in folder.name:
        key, _, value = folder.name.partition("=")
        keys.append((key, unquote(value)))
        folder = folder.parent
    return folder, keys[::-1]


def columns_of(path: Path) -> list[tuple[pa.Field, Any]]:
    """The columns that the folders above a file add, each with its one value.

    A key is an integer if all folders of the dataset have one there, as pyarrow and pandas read it, else a text.
    """
    root, keys = layout(path)
    found = []
    for depth, (key, value) in enumerate(keys):
        kind = _type_at(root.absolute(), depth, key)
        if not (pa.types.is_string(kind) or value == NULL or _type_of([value]) in LARGEST):
            _type_at.cache_clear()  # a folder that was not there before
            kind = _type_at(root.absolute(), depth, key)
        found.append((pa.field(key, kind), _typed(value, kind)))
    return found


def _typed(value: str, kind: pa.DataType) -> str | int | None:
    if value == NULL:
        return None
    return value if pa.types.is_string(kind) else int(value)


@lru_cache(maxsize=256)
def _type_at(root: Path, depth: int, key: str) -> pa.DataType:
    """The type of a key, by all folders of the dataset that have it so deep below its root."""
    pattern = "/".join(["*"] * depth + [f"{_literal(key)}=*"])
    texts = [unquote(each.name.partition("=")[2]) for each in root.glob(pattern) if each.is_dir()]
    return _type_of([text for text in texts if text != NULL])


def _literal(text: str) -> str:
    """A text as a pattern that matches it alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _type_of(texts: list[str]) -> pa.DataType:
    try:
        largest = max((abs(int(text)) for text in texts), default=None)
    except ValueError:
        return pa.string()
    kinds = [kind for kind, bound in LARGEST.items() if largest is not None and largest < bound]
    return kinds[0] if kinds else pa.string()
