"""Features that can't be right, by the source's own values: sentinels and impossible numbers, texts that say nothing.

What holds for more than MOST_SHARE of the rows is taken for the dataset's way and is not held against any row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.catalog import catalog_tables
from pipeline.data.encoders.text import tokens
from pipeline.data.labels import numbers, plain
from pipeline.detection.table import ColumnReader
from pipeline.workers.worker import run_data

MOST_SHARE = 0.05
FAR = 1000.0
"""Interquartile ranges from the median beyond which a number is impossible, if it stands alone there …"""
ALONE = 10.0
"""… this many times as far out as any number that is not."""
REPEATED = 3
SHORTEST_LIST = 4
"""Elements; a shorter list can be of one value by chance."""
MOSTLY = 0.5
SENTINEL_FAR, SENTINEL_ALONE, SENTINEL_SHARE = 10.0, 5.0, 0.1
"""Of a value that occurs REPEATED times or more and has no other value beside it, in at most a tenth of the rows."""


def broken_numbers(run_path: Path) -> np.ndarray:
    """bool `[train rows]`: a numeric column has a value that can't be right."""
    found = np.zeros(run_data(run_path).count("train"), dtype=bool)
    for encoder in run_data(run_path).encoding.features:
        if encoder.kind == "numeric":
            found |= impossible(np.concatenate([numbers(part) for part in source(run_path, encoder.column)]))
    return found


def impossible(values: np.ndarray) -> np.ndarray:
    """bool `[rows]` for float64 `[rows]`; what is not finite is not judged."""
    finite = np.isfinite(values)
    known = values[finite]
    bad = np.zeros(len(values), dtype=bool)
    if len(known) == 0:
        return bad
    middle = np.median(known)
    distance = np.abs(known - middle)
    spread = spread_of(known, middle)
    if spread > 0:
        far = far_and_alone(distance / spread)
        found = far.copy()
        found[~far] = sentinel(known[~far], distance[~far] / spread)
        bad[finite] = found
    return bad


def spread_of(values: np.ndarray, middle: float) -> float:
    """The interquartile range; where most values are equal, that of the others."""
    low, high = np.quantile(values, [0.25, 0.75])
    others = values[values != middle]
    if high > low or len(others) == 0:
        return float(high - low)
    low, high = np.quantile(np.append(others, middle), [0.25, 0.75])
    return float(high - low)


def far_and_alone(distance: np.ndarray) -> np.ndarray:
    """bool `[rows]`: beyond FAR, and beyond a gap; the gap may lie anywhere out there."""
    ordered = np.sort(distance)
    first = np.flatnonzero((ordered[1:] > FAR) & (ordered[1:] > ALONE * np.maximum(ordered[:-1], 1.0)))
    if len(first) == 0:
        return np.zeros(len(distance), dtype=bool)
    bad = distance >= ordered[first[0] + 1]
    return bad & (bad.mean() <= MOST_SHARE)


def sentinel(values: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """bool `[rows]`: the farthest value, if it is repeated and stands alone (−999 among ages)."""
    farthest = values[np.argmax(distance)]
    same = values == farthest
    rest = distance[~same]
    alone = len(rest) > 0 and distance.max() > max(SENTINEL_FAR, SENTINEL_ALONE * rest.max())
    return same & bool(alone and same.sum() >= REPEATED and same.mean() <= SENTINEL_SHARE)


def broken_lists(run_path: Path) -> np.ndarray:
    """bool `[train rows]`: a list of numbers is all of one value, mostly at its column's largest, or half missing."""
    found = np.zeros(run_data(run_path).count("train"), dtype=bool)
    for encoder in run_data(run_path).encoding.features:
        if encoder.kind == "list":
            parts = [list_marks(encoder.values(plain(part))) for part in source(run_path, encoder.column)]  # type: ignore[attr-defined]
            found |= unusual_lists(*(np.concatenate(each) for each in zip(*parts)))
    return found


def list_marks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of `[rows, length]`, by row: all of one value, the largest one, the share that has it, and the share missing."""
    rows, length = values.shape
    if length < SHORTEST_LIST:
        return np.zeros(rows, dtype=bool), np.full(rows, -np.inf), np.zeros(rows), np.zeros(rows)
    known = np.isfinite(values)
    largest = np.where(known, values, -np.inf).max(1)
    same = known & (values == largest[:, None])
    return same.all(1), largest, same.mean(1), 1 - known.mean(1)


def unusual_lists(
    constant: np.ndarray, largest: np.ndarray, at_largest: np.ndarray, missing: np.ndarray
) -> np.ndarray:
    """bool `[rows]` from the marks of all rows; what holds for more than MOST_SHARE is the dataset's way."""
    saturated = ~constant & (largest == largest.max()) & (at_largest >= MOSTLY)
    marks = (constant, saturated, missing >= MOSTLY)
    found = np.zeros(len(constant), dtype=bool)
    for mark in marks:
        found |= mark & (mark.mean() <= MOST_SHARE)
    return found


def broken_texts(run_path: Path) -> np.ndarray:
    """bool `[train rows]`: a text column has no letters, or only tokens that the vocabulary lacks."""
    found = np.zeros(run_data(run_path).count("train"), dtype=bool)
    for encoder in run_data(run_path).encoding.features:
        if encoder.kind == "text":
            known = set(encoder.vocabulary)  # type: ignore[attr-defined]
            parts = [says_nothing(part, known) for part in source(run_path, encoder.column)]
            bad = np.concatenate(parts)
            found |= bad & (bad.mean() <= MOST_SHARE)
    return found


def says_nothing(texts: pa.Array, known: set[str]) -> np.ndarray:
    """bool `[rows]`."""
    texts = plain(texts).fill_null("")
    letters = pc.match_substring_regex(texts, r"\p{L}").to_numpy(zero_copy_only=False)
    strange = [not known.intersection(tokens(text)) for text in texts.to_pylist()]
    return ~letters | np.array(strange, dtype=bool)


def source(run_path: Path, column: str) -> Iterator[pa.Array]:
    """A column of the train rows as the shards have it, in order, some thousand rows at a time."""
    shard, reader = None, None
    for table in catalog_tables(run_path, "train", ["shard", "row"]):
        name = table["shard"][0].as_py()
        if reader is None or name != shard:
            shard, reader = name, ColumnReader(name, column)
        yield reader.take(table["row"].to_numpy()).combine_chunks()
