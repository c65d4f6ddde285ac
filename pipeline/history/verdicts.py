"""People's verdicts about rows, which hold in later audits until the row's features or label change.

A verdict belongs to what a row says, not to its key or place: it is found again after shards are renamed, compacted or
put in another order, and rows of equal features and label share it. A corrected label is right from then on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.history.folder import HistoryFiles
from pipeline.runs.directory import remove, write_atomically
from pipeline.text.decisions import CHANGED, Decision

KIND = "verdicts"
SNAPSHOT = "earlier_verdicts.parquet"
"""In a run directory: the verdicts of earlier audits that stood when it was opened."""
OF_AUDIT, OF_REVIEW = "audit", "review"
STANDING = (Decision.KEEP.word, *CHANGED)


@dataclass(frozen=True)
class Verdict:
    """What a person said about a row.

    Attributes:
        features_hash: of the row, as in catalog.parquet.
        label: the given label, as JSON.
        decision: `keep`, `remove`, `relabel`, or `review` for a person who is unsure, which ends an earlier verdict.
        new_label: the right label, as JSON; None without one.
        row_key: of the row when the verdict was given, for people who read the file.
        by: who said it; at: when; note: as the person wrote them, empty if unknown.
        run_id: the run in which it was given.
        origin: `audit` for decisions that the config of that run names, `review` for answers given to `winnow review`.
    """

    features_hash: str
    label: str
    decision: str
    new_label: str | None
    row_key: str
    by: str
    at: str
    note: str
    run_id: str
    origin: str

    @property
    def row(self) -> tuple[str, str]:
        """What the verdict is about: features and label."""
        return self.features_hash, self.label

    @property
    def word(self) -> tuple[str, str | None]:
        return self.decision, self.new_label


SCHEMA = pa.schema([(name, pa.string()) for name in Verdict.__dataclass_fields__])


def as_json(label: Any) -> str:
    """A label as text that is equal for equal labels; sets are sorted."""
    return json.dumps(sorted(label) if isinstance(label, list) else label, ensure_ascii=False, default=str)


def record_verdicts(folder: Path, verdicts: Iterable[Verdict]) -> int:
    """Add verdicts to a history; those that say what stands already are left out.

    Args:
        folder: of the history; it is made if it does not exist.
        verdicts: in the order in which they were given.

    Returns:
        How many are new.

    Raises:
        InputError: the history is damaged or can't be written to.
    """
    given = list(verdicts)
    if not given:
        return 0
    files = HistoryFiles(folder, KIND)
    with files.locked():
        known = _last(_read_all(files))
        new = [each for each in _last(given).values() if _differs(each, known.get(each.row))]
        if new:
            files.append([_as_table(new)], SCHEMA)
    return len(new)


def _differs(verdict: Verdict, known: Verdict | None) -> bool:
    if known is None:
        return verdict.decision in STANDING
    return verdict.word != known.word


def standing_verdicts(folder: Path, run_id: str | None = None) -> list[Verdict]:
    """The last verdict about each row, ordered by row.

    Args:
        folder: of the history, which may not exist.
        run_id: leave out what the config of this run names; the run reads it by itself.

    Raises:
        InputError: the history is damaged.
    """
    files = HistoryFiles(folder, KIND)
    others = [each for each in _read_all(files) if (each.run_id, each.origin) != (run_id, OF_AUDIT)]
    return [each for _, each in sorted(_last(others).items()) if each.decision in STANDING]


def write_snapshot(run_path: Path, verdicts: Sequence[Verdict]) -> None:
    """Keep the verdicts that stand in a run directory, so that the run can be repeated; none: there is no file."""
    path = run_path / SNAPSHOT
    if not verdicts:
        remove(path)
    elif not path.exists() or read_snapshot(run_path) != list(verdicts):
        with write_atomically(path) as temporary:
            pq.write_table(_as_table(verdicts), temporary)


def read_snapshot(run_path: Path) -> list[Verdict]:
    """The verdicts of earlier audits that a run goes by."""
    path = run_path / SNAPSHOT
    return _of_table(pq.read_table(path, partitioning=None)) if path.exists() else []


def _last(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    return {each.row: each for each in verdicts}


def _read_all(files: HistoryFiles) -> list[Verdict]:
    return [each for table in files.read() for each in _of_table(table)]


def _as_table(verdicts: Sequence[Verdict]) -> pa.Table:
    return pa.Table.from_pylist([asdict(each) for each in verdicts], SCHEMA)


def _of_table(table: pa.Table) -> list[Verdict]:
    return [Verdict(**row) for row in table.select(SCHEMA.names).to_pylist()]
