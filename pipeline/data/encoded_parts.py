"""Encoded rows of a shard, part by part, joined into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.config import ROLES


@dataclass(frozen=True)
class Encoded:
    """The arrays of consecutive rows of a shard by role; `rows` counts those without a role too."""

    first: int
    rows: int
    arrays: dict[str, dict[str, np.ndarray]]


def joined(parts: Iterable[Encoded], chunk_rows: int, part_rows: int) -> Iterator[Encoded]:
    """Chunks of at most `chunk_rows` rows.

    Args:
        parts: of one shard, in order.
        chunk_rows: of a chunk; parts have no more.
        part_rows: how many rows were read at once; if that is a chunk's, a part is a chunk.
    """
    held: list[Encoded] = []
    for part in parts:
        if held and (part_rows >= chunk_rows or sum(each.rows for each in held) + part.rows > chunk_rows):
            yield _together(held)
            held = []
        held.append(part)
    if held:
        yield _together(held)


def _together(parts: list[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    arrays = {}
    for role in ROLES:
        found = [part.arrays[role] for part in parts if role in part.arrays]
        if found:
            arrays[role] = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    return Encoded(parts[0].first, sum(part.rows for part in parts), arrays)
