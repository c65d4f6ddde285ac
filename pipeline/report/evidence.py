"""The bars of a card: how suspicious each signal finds a row, compared with all audited rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.report.signals import ShownSignal
from pipeline.text import words


@dataclass(frozen=True)
class Bar:
    """A signal of a row; `share` is the fraction of rows that are less suspicious (ties count half), in 0..1."""

    label: str
    share: float
    shown: str
    words: str


def evidence(path: Path, signals: Sequence[ShownSignal], keys: pa.Array) -> dict[str, list[Bar]]:
    """A bar per signal for each of the row keys; nulls give none.

    One column is in memory at a time.

    Args:
        path: signals.parquet.
        signals: column → the signal in words.
        keys: the row keys.

    Returns:
        Row key → bars, in the order of `signals`.
    """
    bars: dict[str, list[Bar]] = {key: [] for key in keys.to_pylist()}
    if not bars or not path.exists():
        return bars
    columns = pq.read_schema(path).names
    known = [signal for signal in signals if signal.name in columns]
    chosen = pq.read_table(path, filters=pc.field("row_key").isin(keys), partitioning=None).to_pylist()
    for signal in known:
        name = signal.name
        column = pq.read_table(path, columns=[name], partitioning=None)[name].drop_null()
        ordered = np.sort(column.to_numpy())
        for row in chosen:
            if row[name] is not None:
                bars[row["row_key"]].append(bar(signal, row[name], ordered))
    return bars


def bar(signal: ShownSignal, value: float, ordered: np.ndarray) -> Bar:
    """The bar of a signal's value; `ordered` has the values of all rows, ascending, float `[rows]`."""
    below = np.searchsorted(ordered, value, "left") + np.searchsorted(ordered, value, "right")
    lower = float(below) / 2 / len(ordered)
    share = lower if signal.high_is_suspicious else 1 - lower
    shown = _most(share, len(ordered))
    compared = "higher" if signal.high_is_suspicious else "lower"
    text = f"{words.sentence(signal.words)}: {words.number(value)}, {compared} than for {shown} of the rows"
    return Bar(signal.label, share, shown, text)


def _most(share: float, rows: int) -> str:
    """A percentage that reads as 100 % only for the most suspicious row."""
    if share >= 1 - 0.5 / rows:
        return "100 %"
    return words.percent(share, 0) if share < 0.99 else words.percent(min(share, 0.999), 1)
