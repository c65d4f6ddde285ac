"""Reviews of flagged rows by people (`winnow review`): sheets of a sample, and what the answers show."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import Step, left_over
from pipeline.config import load_config
from pipeline.data.decisions_file import DecisionLine
from pipeline.data.entries import read_entries
from pipeline.data.hashing import key_ids
from pipeline.detection.people.answers import VERDICTS, ReviewAnswers, ranking_hash
from pipeline.detection.people.decided_rows import find_rows, words_of
from pipeline.detection.people.earlier_verdicts import verdicts_of_words
from pipeline.detection.people.review_sample import (
    UNANSWERED,
    CutOff,
    judge,
    make_plan,
    rows_to_ask,
    rows_to_remove,
)
from pipeline.detection.rules.choose import read_candidates
from pipeline.errors import InputError
from pipeline.history.folder import history_folder
from pipeline.history.verdicts import OF_REVIEW, record_verdicts
from pipeline.reviewing.review_sheet import sheet_rows
from pipeline.runs.directory import RunDirectory, existing_run, write_atomically

ANSWERS, HOLDOUT_ANSWERS = "review/answers.parquet", "review/holdout.parquet"
COLUMNS = ("row_key", "verdict", "sample")
MOST_NAMED = 5


@dataclass(frozen=True)
class Review:
    """The state of a review.

    Attributes:
        precision: the precision to be shown.
        confidence: of the tests.
        answered: how many rows have an answer.
        cutoffs: the tests so far, from strict to lax.
        shown: how many of the most suspicious rows are shown to have this precision.
        open: how many rows of the sample still need an answer.
        changed: how many earlier answers the last sheet has changed.
    """

    precision: float
    confidence: float
    answered: int
    cutoffs: list[CutOff]
    shown: int
    open: int
    changed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class ReviewedRun:
    """A run whose detection is done, with its answers so far.

    Args:
        path: the run directory.
        precision: the precision to be shown; None takes that of the review, or `detection.precision` for a new one.

    Raises:
        InputError: detection is not done, the run has canaries, no row can be removed, or the answers are for another
            ranking or another precision.
    """

    def __init__(self, path: str | Path, precision: float | None = None):
        self.run = existing_run(path, "detect")
        self.run.check_stages("detect")
        self.config = load_config(self.run / "config.yaml")
        if self.config.detection.canaries:
            raise InputError(
                f"{path}: labels were flipped on purpose in this run",
                "Review a run without detection.canaries.",
            )
        rows = pq.read_table(self.run / "rows.parquet", columns=["row_key"], partitioning=None)["row_key"]
        self.candidates = read_candidates(self.run.path)
        self.keys = rows.take(pa.array(self.candidates)).to_pylist()
        self.row_ids = key_ids(self.keys)
        self.answers = self.load_answers(precision)

    def load_answers(self, precision: float | None) -> ReviewAnswers:
        path = self.run / ANSWERS
        if not path.exists():
            return self.begin(precision or self.config.detection.precision)
        check_answers(self.run, ANSWERS)
        answers = ReviewAnswers.load(path)
        again = f"Remove {path.parent} to begin a new review."
        if precision not in (None, answers.plan.precision):
            raise InputError(
                f"{path}: the review is about a precision of {answers.plan.precision:g}, not {precision:g}",
                again,
            )
        if ranking_hash(self.row_ids, answers.plan) != answers.ranking:
            raise InputError(
                f"{path}: detection has run again, and the answers belong to another ranking", again
            )
        return answers

    def begin(self, precision: float) -> ReviewAnswers:
        if not 0 < precision < 1:
            raise InputError(f"--precision {precision:g}: not between 0 and 1", "Write a share, such as 0.8.")
        if not self.keys:
            raise InputError(
                f"{self.run.path}: there is no row that might be removed",
                "Raise detection.max_removed or detection.max_removed_per_class.",
            )
        detection, flagged = self.config.detection, self.run.facts("detect")["review"]
        plan = make_plan(precision, detection.confidence, flagged, len(self.keys), detection.seed)
        return ReviewAnswers(plan, ranking_hash(self.row_ids, plan), {})

    @property
    def verdicts(self) -> np.ndarray:
        return self.answers.of_candidates(self.row_ids)

    def state(self) -> Review:
        plan, verdicts = self.answers.plan, self.verdicts
        cutoffs = judge(plan, verdicts)
        return Review(
            plan.precision,
            plan.confidence,
            int((verdicts != UNANSWERED).sum()),
            cutoffs,
            rows_to_remove(cutoffs),
            len(rows_to_ask(plan, verdicts, len(verdicts))),
        )


def check_answers(run: RunDirectory, name: str) -> None:
    """Check that a file of answers has not changed since it was written; no audit could make it again.

    Raises:
        InputError: the file is missing or has changed.
    """
    try:
        run.check(name)
    except InputError as error:
        raise InputError(
            error.message,
            "Restore a copy of it. Without a copy, remove it and give `winnow review RUN` the filled sheets again.",
        ) from None


def write_sheet(
    path: str | Path, sample: int, sheet: str | Path | None = None, precision: float | None = None
) -> tuple[Path | None, int]:
    """Write a sheet with at most `sample` flagged rows; a later sheet has the rows that still need an answer.

    Args:
        path: a run directory.
        sample: how many rows to ask about.
        sheet: a file that ends in .csv or .parquet; None takes `review/sheet-N.csv` in the run.
        precision: the precision to be shown; None as in `ReviewedRun`.

    Returns:
        The path of the sheet and its number of rows; None and 0 if no row needs an answer.

    Raises:
        InputError: the sheet exists; also as in `ReviewedRun`.
    """
    if sample < 1:
        raise InputError(f"--sample {sample}: not a number of rows", "Ask for at least one.")
    review = ReviewedRun(path, precision)
    asked = rows_to_ask(review.answers.plan, review.verdicts, sample)
    if not asked:
        return None, 0
    target = Path(sheet) if sheet is not None else _next_sheet(review.run)
    if target.exists() and not left_over(target):
        raise InputError(f"{target}: exists already", "Choose another name by --sheet, or remove the file.")
    if target.suffix not in (".csv", ".parquet"):
        raise InputError(f"{target}: neither .csv nor .parquet", "Choose a name with one of these endings.")
    with review.run.lock():
        strata = {review.keys[place]: f"top {cutoff}" for place, cutoff in asked}
        lines = sheet_rows(review.run, review.config.data, list(strata))
        for line in lines:
            line |= {"verdict": "", "stratum": strata[line["row_key"]], "sample": review.answers.sample_id}
        save_sheet(target, lines)
        review.answers.save(review.run / ANSWERS)
        Step(target).finish()
    return target, len(lines)


def _next_sheet(run: RunDirectory) -> Path:
    number = 1
    while (path := run / f"review/sheet-{number}.csv").exists() and not left_over(path):
        number += 1
    return path


def save_sheet(path: Path, lines: list[dict[str, Any]]) -> None:
    try:
        with write_atomically(path) as temporary:
            if path.suffix == ".parquet":
                pq.write_table(pa.Table.from_pylist(lines), temporary)
                return
            with temporary.open(
                "w", newline="", encoding="utf-8-sig"
            ) as file:  # spreadsheets recognise UTF-8 by the byte order mark
                writer = csv.DictWriter(file, list(lines[0]))
                writer.writeheader()
                writer.writerows(lines)
    except OSError as error:
        raise InputError(
            f"{path}: can't be written to ({error.strerror})", "Choose another --sheet."
        ) from None


def take_answers(path: str | Path, sheet: str | Path) -> Review:
    """Read a filled sheet and store its answers in the run.

    Lines without a verdict are skipped. Answers of several sheets add up; a new answer for a row replaces an
    earlier one. The verdicts also go to the history of the dataset, where later audits find them.

    Args:
        path: a run directory.
        sheet: the filled sheet.

    Returns:
        The state of the review.

    Raises:
        InputError: a verdict or a row is unknown, verdicts in the sheet contradict each other, the sheet belongs to
            another sample, or it has no verdict; or the history of the dataset is damaged.
    """
    review = ReviewedRun(path)
    if not (review.run / ANSWERS).exists():
        raise InputError(
            f"{path}: no sheet was written for this run", "Begin with `winnow review RUN --sample 200`."
        )
    plan = review.answers.plan
    asked = {review.keys[place] for cutoff in plan.cutoffs for place in plan.sample(cutoff).tolist()}
    lines = _read_verdicts(Path(sheet), asked, review.answers)
    found = {key: line.word for key, line in lines.items()}
    earlier = review.answers.verdicts
    changed = sum(earlier.get(key, verdict) != verdict for key, verdict in found.items())
    words = words_of(find_rows(review.config, review.run.path, lines.values()))
    labels = {word.line.key: word.line.label or "" for word in words if word.label is not None}
    with review.run.lock():
        review.answers = review.answers.with_verdicts(found, labels)
        review.answers.save(review.run / ANSWERS)
        history = history_folder(review.run.path, review.config.name)
        record_verdicts(history, verdicts_of_words(review.run.path, words, OF_REVIEW))
    return replace(review.state(), changed=changed)


def _read_verdicts(sheet: Path, asked: set[str], before: ReviewAnswers) -> dict[str, DecisionLine]:
    """Read the lines of a sheet that have a verdict.

    Args:
        sheet: the filled sheet.
        asked: the row keys of the sample.
        before: the answers so far, with the id of the sample.

    Returns:
        Row key → line.

    Raises:
        InputError: as in `take_answers`.
    """
    found: dict[str, DecisionLine] = {}
    unknown: list[str] = []
    contradicted: list[str] = []
    for place, entry in _sheet_entries(sheet):
        key, verdict = entry["row_key"], (entry["verdict"] or "").strip().lower()
        if not verdict:
            continue
        if verdict not in VERDICTS:
            raise InputError(
                f"{place}: unknown verdict {entry['verdict']!r} for row {key!r}",
                "Write wrong, right or unsure.",
            )
        if key not in asked:
            unknown.append(key)
            continue
        if entry["sample"] != before.sample_id:
            raise InputError(
                f"{place}: the sheet belongs to another sample ({entry['sample'] or 'none'}, not {before.sample_id})",
                "Fill in a sheet that was written for this run.",
            )
        label = (entry.get("label") or "").strip() or None
        first = found.setdefault(key, DecisionLine(key, verdict, label, "", "", "", place))
        if (first.word, first.label) != (verdict, label) and key not in contradicted:
            contradicted.append(key)
    if unknown:
        raise InputError(
            f"{sheet}: the sample has no row {_listed(unknown)}",
            "Fill in the sheet that `winnow review RUN --sample` wrote, and leave its column row_key as it is.",
        )
    if contradicted:
        raise InputError(
            f"{sheet}: more than one verdict for row {_listed(contradicted)}", "Give each row one verdict."
        )
    if not found:
        raise InputError(
            f"{sheet}: no verdict is filled in", "Write wrong, right or unsure into the column verdict."
        )
    return found


def _listed(keys: list[str]) -> str:
    """The first keys as text, and how many more there are."""
    more = f" and {len(keys) - MOST_NAMED:,} more" if len(keys) > MOST_NAMED else ""
    return ", ".join(map(repr, keys[:MOST_NAMED])) + more


def _sheet_entries(sheet: Path) -> Iterable[tuple[str, dict[str, str]]]:
    if not sheet.is_file():
        raise InputError(f"{sheet}: no such file", f"Relative paths start from {Path.cwd()}.")
    entries = list(read_entries(sheet))
    missing = [name for name in COLUMNS if entries and name not in entries[0][1]]
    if not entries or missing:
        what = f"no column {missing[0]!r}" if missing else "no lines"
        raise InputError(f"{sheet}: {what}", "Fill in the sheet that `winnow review RUN --sample` wrote.")
    return entries


def reviewed_changes(path: str | Path) -> dict[str, Any]:
    """Changes of a run's config; an audit in the same directory with these changes uses the answers.

    They cover answers about flagged rows and about holdout rows.

    Raises:
        InputError: there are no answers.
    """
    review = ReviewedRun(path)
    holdout = review.run / HOLDOUT_ANSWERS
    of_holdout = {"verification.answers": str(holdout)} if holdout.exists() else {}
    if not review.answers.verdicts and of_holdout:
        return of_holdout
    if not review.answers.verdicts:
        raise InputError(
            f"{path}: there are no answers yet",
            "`winnow review RUN --answers SHEET` reads them from a sheet.",
        )
    plan = review.answers.plan
    return {
        "detection.rule": "reviewed",
        "detection.trusted": None,
        "detection.answers": str(review.run / ANSWERS),
        "detection.precision": plan.precision,
        "detection.confidence": plan.confidence,
        **of_holdout,
    }


def review_state(path: str | Path) -> Review:
    """The state of the review of a run.

    Raises:
        InputError: as in `ReviewedRun`.
    """
    return ReviewedRun(path).state()
