"""Decisions by people, which take precedence over rules, caps and gates."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ROLES, AuditConfig
from pipeline.data.catalog import catalog_tables
from pipeline.data.decisions_file import DecisionLine, read_decisions
from pipeline.data.formats.sources import source_schema
from pipeline.data.originals import class_names
from pipeline.detection.people.answers import ReviewAnswers
from pipeline.detection.table import with_labels
from pipeline.errors import InputError
from pipeline.text import words
from pipeline.text.decisions import ANSWERS_RIGHT, CHANGED, DECISIONS, UNSURE, Decider, Decision
from pipeline.workers.worker import run_data

COLUMNS = ["row_key", "shard", "row", "features_hash"]
MOST_CLASSES = 10


@dataclass(frozen=True)
class Word:
    """A person's decision about one row.

    Attributes:
        decision: a Decision.
        label: the label that the person gave; None without one.
        line: the line of the file.
        given: the label of the row.
        features_hash: of the row, as in catalog.parquet.
        decider: PERSON, or HISTORY for a verdict that a person gave in an earlier audit.
    """

    decision: int
    label: Any
    line: DecisionLine
    given: Any
    features_hash: str
    decider: Decider = Decider.PERSON


People = Mapping[int, Word]
"""Place among the rows of a role → a person's decision about that row."""


@dataclass(frozen=True)
class Applied:
    """The decisions after those of people have been applied; arrays are `[rows]`.

    Attributes:
        decision: uint8, Decisions.
        decided_by: uint8, Deciders.
        people: bool, whether a person decided, in this audit or an earlier one.
        own_labels: place → the label that a person gave.
    """

    decision: np.ndarray
    decided_by: np.ndarray
    people: np.ndarray
    own_labels: dict[int, Any] = field(default_factory=dict)


def read_people(config: AuditConfig, run_path: Path) -> dict[str, People]:
    """Read the decisions that the config names: `detection.decisions`, and the answers of the rule `reviewed`.

    If both decide about a row, the file of decisions takes precedence.

    Returns:
        Role → place among its rows → decision.

    Raises:
        InputError: as in `find_rows`.
    """
    lines: dict[str, DecisionLine] = {}
    if config.detection.answers is not None:
        lines |= {line.key: line for line in lines_of_answers(Path(config.detection.answers))}
    if config.detection.decisions is not None:
        lines |= {line.key: line for line in read_decisions(Path(config.detection.decisions))}
    return find_rows(config, run_path, list(lines.values())) if lines else {}


def lines_of_answers(path: Path) -> Iterator[DecisionLine]:
    answers = ReviewAnswers.load(path)
    for key, verdict in answers.verdicts.items():
        yield DecisionLine(key, verdict, answers.labels.get(key), "", "", "", str(path))


def find_rows(config: AuditConfig, run_path: Path, lines: Iterable[DecisionLine]) -> dict[str, People]:
    """Find the rows that the lines decide about.

    Returns:
        Role → place among its rows → decision.

    Raises:
        InputError: no row has the key of a line, the row's role has labels that are declared right, a label is not a
            label of the data, or it contradicts the decision.
    """
    waiting = {line.key: line for line in lines}
    reader: LabelReader | None = None
    found: dict[str, dict[int, Word]] = {}
    for role in ROLES:
        for place, table in matching(run_path, role, "row_key", list(waiting), config.data.label):
            reader = reader or LabelReader(run_path, table["shard"][0].as_py(), config.data.label)
            columns = (table[name].to_pylist() for name in ("row_key", "label", "features_hash"))
            for at, key, given, features in zip(place, *columns):
                line = waiting.pop(key)
                if config.data.labels_are_clean(role):
                    raise InputError(
                        f"{line.place}: row {key!r} is a {role} row, and these are declared right",
                        f"Leave the line out, or set data.{role}_is_clean: false.",
                    )
                word = reader.word_of(line, given, features)
                if word is not None:
                    found.setdefault(role, {})[at] = word
    if waiting:
        line, others = next(iter(waiting.values())), len(waiting) - 1
        more = f" ({others:,} more {'is' if others == 1 else 'are'} unknown)" if others else ""
        raise InputError(
            f"{line.place}: no audited row has the key {line.key!r}{more}",
            f"Keys are those of the column row_key of {run_path / 'rows.parquet'}.",
        )
    return dict(found)


def words_of(people: Mapping[str, People]) -> list[Word]:
    """The decisions about rows of all roles."""
    return [word for of_role in people.values() for word in of_role.values()]


def check_lines(config: AuditConfig, run_path: Path, lines: list[DecisionLine]) -> None:
    """Check lines against a run.

    Raises:
        InputError: as in `find_rows`; or a row is to be relabelled, but neither the line nor the run has a label.
    """
    words = words_of(find_rows(config, run_path, lines))
    unnamed = {
        word.line.key: word for word in words if word.decision == Decision.RELABEL and word.label is None
    }
    wanted = (
        pc.field("row_key").isin(pa.array(list(unnamed), pa.string())) & pc.field("suggested_label").is_null()
    )
    rows = pq.read_table(run_path / "rows.parquet", columns=["row_key"], filters=wanted, partitioning=None)
    if rows.num_rows:
        _refuse_relabelling(unnamed[rows["row_key"][0].as_py()])


def matching(
    run_path: Path, role: str, column: str, values: list[str], label: str
) -> Iterator[tuple[list[int], pa.Table]]:
    """Yield the places of rows with one of the values in a column of COLUMNS, and their COLUMNS and label."""
    wanted, done = pa.array(values, pa.string()), 0
    places: list[list[int]] = []

    def tables() -> Iterator[pa.Table]:
        nonlocal done
        for table in catalog_tables(run_path, role, COLUMNS):
            there = pc.is_in(table[column], wanted)
            inside = np.flatnonzero(there.to_numpy())
            if len(inside):
                places.append((inside + done).tolist())
                yield table.filter(there)
            done += table.num_rows

    for table in with_labels(tables(), label):
        yield places.pop(0), table


@dataclass(frozen=True)
class LabelReader:
    """Reads labels as people write them.

    Attributes:
        run_path: the run directory.
        shard: a source file, whose schema has the type of the label column.
        column: the label column.
    """

    run_path: Path
    shard: str
    column: str

    @cached_property
    def names(self) -> dict[Any, str]:
        return class_names(source_schema(self.shard), self.column)

    @cached_property
    def integer(self) -> bool:
        return bool(pa.types.is_integer(source_schema(self.shard).field(self.column).type))

    @cached_property
    def spellings(self) -> dict[str, Any]:
        """Text → class, for all accepted spellings: as in Python, booleans in lower case, numbers, and class names."""
        found: dict[str, Any] = {}
        for value in run_data(self.run_path).encoding.classes:
            found[str(value)] = value
            if isinstance(value, bool):
                found[str(value).lower()] = value
            elif isinstance(value, int):
                found[str(float(value))] = value
        named = {name: value for value, name in self.names.items() if value in set(found.values())}
        return {name: value for name, value in named.items() if name not in found} | found

    def word_of(self, line: DecisionLine, given: Any, features_hash: str) -> Word | None:
        """The decision of a line about a row with the label `given`; None if the line has no answer.

        Raises:
            InputError: the label of the line is wrong or contradicts its answer.
        """
        new = None if line.label is None or self.is_given(line.label, given) else self.read(line)
        if new is not None and self.equal(new, given):
            new = None
        if not line.word:
            if new is not None:
                raise InputError(f"{line.place}: a new label without a verdict", "Write wrong beside it.")
            return None
        if new is not None and line.word not in ("wrong", Decision.RELABEL.word):
            raise InputError(
                f"{line.place}: row {line.key!r} is called {line.word}, and {line.label!r} is not its label "
                f"({words.label(given, self.names)})",
                "Write wrong or relabel to give it a new label, or leave the label out.",
            )
        if line.word == Decision.RELABEL.word and new is None and line.label is not None:
            raise InputError(
                f"{line.place}: row {line.key!r} can't be relabelled: it has the label {line.label!r} already",
                "Give another label, or leave it out to take the suggested one.",
            )
        return Word(_decision_of(line.word, new is not None), new, line, given, features_hash)

    def is_given(self, text: str, given: Any) -> bool:
        """Whether a text is the given label, as sheets show it or as Python writes it."""
        return text in (words.label(given, self.names), str(given))

    def equal(self, new: Any, given: Any) -> bool:
        if isinstance(new, list):
            return set(new) == set(given or ())
        return bool(new == given)

    def read(self, line: DecisionLine) -> Any:
        """The label of a line, in the type of the source.

        Raises:
            InputError: it is not a label of the data.
        """
        task = run_data(self.run_path).encoding.task
        if task == "regression":
            return self.number(line)
        if task == "multilabel":
            return sorted({self.one_of(line, each) for each in _set_of(line)})
        return self.one_of(line, line.label or "")

    def one_of(self, line: DecisionLine, text: str) -> Any:
        if text not in self.spellings:
            some = ", ".join(list(dict.fromkeys(map(str, self.spellings.values())))[:MOST_CLASSES])
            raise InputError(f"{line.place}: {text!r} is no class of this run", f"Classes: {some}.")
        return self.spellings[text]

    def number(self, line: DecisionLine) -> float | int:
        try:
            number = float(line.label or "")
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{line.place}: {line.label!r} is no number", "The label is a regression target."
            )
        if self.integer and number != int(number):
            raise InputError(
                f"{line.place}: {line.label!r} is no whole number",
                f"The column {self.column!r} has integers.",
            )
        return int(number) if self.integer else number


def _decision_of(answer: str, has_label: bool) -> Decision:
    """The decision that follows from an answer (one of ANSWERS); `has_label` tells whether it has a new label."""
    if answer in ANSWERS_RIGHT:
        return Decision.KEEP
    if answer == UNSURE:
        return Decision.REVIEW
    if answer in CHANGED:
        return Decision.of(answer)
    return Decision.RELABEL if has_label else Decision.REMOVE


def _set_of(line: DecisionLine) -> list[str]:
    """Parse a set of labels: a JSON list, or labels separated by commas; `[]` and `none` are the empty set.

    Raises:
        InputError: the text is no list of labels.
    """
    text = line.label or ""
    if text == "none":
        return []
    if not text.startswith("["):
        return [each.strip() for each in text.split(",") if each.strip()]
    try:
        return [str(each) for each in json.loads(text)]
    except ValueError:
        raise InputError(
            f"{line.place}: {text!r} is no list of labels", 'Write ["one", "two"] or one, two.'
        ) from None


def apply_people(decision: np.ndarray, people: People | None, has_suggestion: np.ndarray) -> Applied:
    """Apply people's decisions to the decisions of one role; they override the rule and its caps.

    Args:
        decision: uint8 `[rows]`, Decisions.
        people: the decisions by people, or None.
        has_suggestion: bool `[rows]`, whether another label is suggested.

    Raises:
        InputError: a row is to be relabelled, and neither the person nor a suggestion gives a label.
    """
    decision = decision.copy()
    by_person = np.zeros(len(decision), dtype=bool)
    own: dict[int, Any] = {}
    for place, word in (people or {}).items():
        if word.decision == Decision.RELABEL and word.label is None and not has_suggestion[place]:
            _refuse_relabelling(word)
        decision[place], by_person[place] = word.decision, True
        if word.label is not None:
            own[place] = word.label
    decided_by = np.where(decision == Decision.KEEP, Decider.NOBODY, Decider.RULE).astype(np.uint8)
    for place, word in (people or {}).items():
        decided_by[place] = word.decider
    return Applied(decision, decided_by, by_person, own)


def _refuse_relabelling(word: Word) -> NoReturn:
    raise InputError(
        f"{word.line.place}: row {word.line.key!r} can't be relabelled: no label is suggested",
        "Write the new label into the column label.",
    )


def count_history(applied: Iterable[Applied]) -> int:
    """How many rows follow a verdict that a person gave in an earlier audit."""
    return sum(int((each.decided_by == Decider.HISTORY).sum()) for each in applied)


def count_people(applied: Iterable[Applied]) -> dict[str, int]:
    """Decision → how many rows people gave it, in this audit or an earlier one."""
    counts = np.zeros(len(DECISIONS), dtype=int)
    for each in applied:
        counts += np.bincount(each.decision[each.people], minlength=len(DECISIONS))
    return dict(zip(DECISIONS, counts.tolist()))
