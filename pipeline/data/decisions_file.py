"""Files of decisions by people: CSV or Parquet, and filled review sheets, as docs/reference/decisions-file.md says."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline.data.entries import read_entries
from pipeline.errors import InputError
from pipeline.runs.directory import write_atomically
from pipeline.text.decisions import ANSWERS

COLUMNS = ("row_key", "decision", "label", "by", "at", "note")
VERDICT = "verdict"
OF_SHEETS = ("suggested_label", "suspicion", "reasons", "preview", "stratum", "sample")
"""What a review sheet shows beside the columns that a person fills in."""


@dataclass(frozen=True)
class DecisionLine:
    """What a person says about one row; `place` says where it stands, for messages.

    word: one of ANSWERS, or empty on a line of a sheet that has no verdict; label: as it is written, None without one.
    """

    key: str
    word: str
    label: str | None
    by: str
    at: str
    note: str
    place: str


def read_decisions(path: Path) -> list[DecisionLine]:
    """All lines, one per row, in the order of the file; lines of a sheet without verdict and label are left out.

    Raises InputError for a file that can't be read, an unknown column or decision, a line without a key or decision,
    lines that contradict each other, and a file without any decision.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", f"Relative paths start from {Path.cwd()}.")
    lines: dict[str, DecisionLine] = {}
    word_column = None
    for place, entry in read_entries(path):
        word_column = word_column or _decision_column(path, place, list(entry))
        line = _line_of(place, entry, word_column)
        if line is None:
            continue
        other = lines.setdefault(line.key, line)
        if (other.word, other.label) != (line.word, line.label):
            raise InputError(
                f"{place}: contradicts {other.place}: both are about row {line.key!r}",
                "Leave one of the two lines out.",
            )
    if not any(line.word for line in lines.values()):
        raise InputError(
            f"{path}: no decision is filled in",
            f"Write one of {', '.join(ANSWERS)} into the column decision.",
        )
    return list(lines.values())


def _decision_column(path: Path, place: str, names: list[str]) -> str:
    """`decision`, or `verdict` in a sheet. Raises InputError for an unknown column and where one is missing."""
    if None in names:
        raise InputError(
            f"{place}: more values than columns", "Quote values that have the separator in them."
        )
    sheet = VERDICT in names
    for name in names:
        if name == "suggested_label" and not sheet:
            raise InputError(
                f"{path}: the column 'suggested_label' belongs to review sheets",
                "Write the new label into the column `label`.",
            )
        if name not in (*COLUMNS, VERDICT, *(OF_SHEETS if sheet else ())):
            _refuse_column(path, name)
    if sheet and "decision" in names:
        raise InputError(f"{path}: has the columns decision and verdict", "Leave one of them out.")
    column = VERDICT if sheet else "decision"
    missing = [name for name in ("row_key", column) if name not in names]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}",
            "The columns row_key and decision are needed: docs/reference/decisions-file.md.",
        )
    return column


def _refuse_column(path: Path, name: str) -> NoReturn:
    close = difflib.get_close_matches(name.lower(), [*COLUMNS, VERDICT], n=1)
    known = f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(COLUMNS)}."
    raise InputError(f"{path}: unknown column {name!r}", known)


def _line_of(place: str, entry: dict[str, str], word_column: str) -> DecisionLine | None:
    key, label = entry["row_key"] or "", (entry.get("label") or "").strip() or None
    word = (entry[word_column] or "").strip().lower()
    if not word and word_column == VERDICT:
        return DecisionLine(key, "", label, "", "", "", place) if label and key else None
    if not key or not word:
        name = "row_key" if not key else "decision"
        raise InputError(f"{place}: no {name}", "Fill it in, or take the line out.")
    if word not in ANSWERS:
        raise InputError(f"{place}: unknown decision {entry[word_column]!r}", f"Known: {', '.join(ANSWERS)}.")
    by, at, note = (entry.get(name) or "" for name in ("by", "at", "note"))
    return DecisionLine(key, word, label, by, at, note, place)


def merge(earlier: Iterable[DecisionLine], later: Iterable[DecisionLine]) -> list[DecisionLine]:
    """The lines of both, where the later ones hold; lines without a decision are left out."""
    lines = {line.key: line for line in earlier if line.word}
    for line in later:
        if line.word:
            lines.pop(line.key, None)
            lines[line.key] = line
    return list(lines.values())


def write_decisions(path: Path, lines: Iterable[DecisionLine]) -> None:
    """A CSV file that `read_decisions` reads as these lines."""
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in lines:
            writer.writerow([line.key, line.word, line.label or "", line.by, line.at, line.note])
