"""The counts in the report's tables: flags by shard and group, confused labels, suspicion by decision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.originals import read_column
from pipeline.text import words
from pipeline.text.decisions import DECISIONS, FLAGGED, Decision

MOST_LINES = 15
MOST_CLASSES = 16
BINS = 40


@dataclass(frozen=True)
class BreakdownLine:
    """The rows of one shard or group, and how many of them are flagged (decision other than keep)."""

    name: str
    rows: int
    flagged: int
    stands_out: bool

    @property
    def share(self) -> float:
        return self.flagged / self.rows


@dataclass(frozen=True)
class Breakdown:
    lines: list[BreakdownLine]
    left_out: int

    @property
    def highest(self) -> float:
        return max(line.share for line in self.lines) or 1.0


@dataclass(frozen=True)
class Confusion:
    """Which labels are confused among the flagged rows.

    Attributes:
        names: of the classes.
        cells: `cells[i][j]` is how many flagged rows with label `names[i]` have the suggestion `names[j]`.
        pairs: (given, suggested, rows), the most frequent pairs.
        left_out: how many classes are not in `names`.
    """

    names: list[str]
    cells: list[list[int]]
    pairs: list[tuple[str, str, int]]
    left_out: int

    @property
    def largest(self) -> int:
        return max(map(max, self.cells))


def read_rows(path: Path, columns: list[str], flagged: bool = False) -> pa.Table:
    """Read columns of rows.parquet, for all rows or only for the flagged ones."""
    return pq.read_table(
        path,
        columns=columns,
        filters=pc.field("decision") != Decision.KEEP.word if flagged else None,
        partitioning=None,
        read_dictionary=[name for name in ("shard", "decision") if name in columns],
    ).unify_dictionaries()


def by_shard(rows: pa.Table) -> Breakdown:
    """A line per shard; `rows` has shard and decision. Shards in one folder are shown without the folder."""
    flagged = rows.filter(pc.not_equal(rows["decision"], Decision.KEEP.word))
    total, of_flagged = count_values(rows["shard"]), count_values(flagged["shard"])
    if len({Path(shard).parent for shard in total}) == 1:
        total, of_flagged = (
            Counter({Path(shard).name: number for shard, number in counts.items()})
            for counts in (total, of_flagged)
        )
    return _breakdown(total, of_flagged)


def by_group(rows: pa.Table, column: str) -> Breakdown:
    """A line per value of a column of the source files; `rows` has shard, row and decision.

    One shard is read at a time.
    """
    total: Counter[Any] = Counter()
    flagged: Counter[Any] = Counter()
    for audited, of_rows in with_values(rows, column):
        total.update(count_values(of_rows))
        flagged.update(
            count_values(
                of_rows.filter(pc.not_equal(audited["decision"], Decision.KEEP.word).combine_chunks())
            )
        )
    return _breakdown(total, flagged)


def with_values(rows: pa.Table, column: str) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Yield the rows of each shard with their values in a column of the source file.

    Shards that can't be read any more, and rows that a shard no longer has, are skipped.

    Args:
        rows: with the columns shard and row.
        column: of the source files.
    """
    for shard, audited in _split_by_shard(rows):
        values = read_column(shard, column)
        if values is not None:
            there = audited.filter(pc.less(audited["row"], len(values)))
            yield there, values.take(there["row"].combine_chunks())


def _split_by_shard(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each shard; a single sort finds them, whatever the number of shards."""
    shards = rows["shard"].combine_chunks()
    codes = shards.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(shards.dictionary) + 1))
    for name, start, end in zip(shards.dictionary.to_pylist(), starts, starts[1:]):
        yield name, rows.take(order[start:end])


def count_values(values: pa.Array | pa.ChunkedArray) -> Counter[Any]:
    return Counter({entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(values)})


def _breakdown(total: Counter[Any], flagged: Counter[Any]) -> Breakdown:
    """Lines that stand out first, then by the share of flagged rows; lines beyond MOST_LINES are only counted."""
    overall = sum(flagged.values()) / max(1, sum(total.values()))
    lines = [
        BreakdownLine(words.label(name), rows, flagged[name], stands_out(flagged[name], rows, overall))
        for name, rows in total.items()
    ]
    lines.sort(key=lambda line: (-line.stands_out, -line.share, -line.rows, line.name))
    return Breakdown(lines[:MOST_LINES], max(0, len(lines) - MOST_LINES))


def stands_out(flagged: int, rows: int, overall: float) -> bool:
    """Whether the share is more than three standard errors above the overall share, which chance hardly explains."""
    return flagged / rows > overall + 3 * math.sqrt(overall * (1 - overall) / rows)


def confusion(flagged: pa.Table, names: dict[Any, str]) -> Confusion | None:
    """Count given and suggested labels of the flagged rows.

    With more than MOST_CLASSES classes, those in the most rows are kept.

    Args:
        flagged: with the columns label and suggested_label.
        names: label → its name.

    Returns:
        None if no row has a suggestion other than its label.
    """
    given, suggested = flagged["label"], flagged["suggested_label"]
    other = flagged.filter(pc.fill_null(pc.not_equal(given, suggested), False))
    if other.num_rows == 0:
        return None
    counted = other.group_by(["label", "suggested_label"]).aggregate([([], "count_all")])
    counts = {(entry["label"], entry["suggested_label"]): entry["count_all"] for entry in counted.to_pylist()}
    weight: Counter[Any] = Counter()
    for pair, rows in counts.items():
        for value in pair:
            weight[value] += rows
    kept = sorted(value for value, _ in weight.most_common(MOST_CLASSES))
    common = sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))[:5]
    return Confusion(
        names=[words.label(value, names) for value in kept],
        cells=[[counts.get((one, two), 0) for two in kept] for one in kept],
        pairs=[(words.label(one, names), words.label(two, names), rows) for (one, two), rows in common],
        left_out=len(weight) - len(kept),
    )


def suspicion_bins(rows: pa.Table) -> list[list[tuple[str, int]]]:
    """How many rows each decision has in each bin of suspicion; `rows` has suspicion and decision."""
    edges = np.linspace(0, 1, BINS + 1)
    counts = {}
    for decision in DECISIONS:
        chosen = rows.filter(pc.equal(rows["decision"], decision))["suspicion"].to_numpy()
        counts[decision] = np.histogram(chosen, edges)[0]
    return [[(decision, int(counts[decision][at])) for decision in DECISIONS] for at in range(BINS)]


def flagged_rows(decisions: dict[str, int], which: Iterable[str] = FLAGGED) -> int:
    return sum(decisions[name] for name in which)
