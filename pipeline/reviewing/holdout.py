"""Reviews of holdout rows by people (`winnow review RUN --holdout N`); no model is trained on the answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.artifacts import Step, left_over
from pipeline.config import AuditConfig, load_config
from pipeline.data.catalog import read_catalog
from pipeline.data.decisions_file import DecisionLine, read_decisions
from pipeline.data.entries import read_entries
from pipeline.detection.people.decided_rows import find_rows
from pipeline.errors import InputError
from pipeline.reviewing.holdout_sample import Share, chances, draw_order, estimate_share, row_sizes
from pipeline.reviewing.review import HOLDOUT_ANSWERS as ANSWERS
from pipeline.reviewing.review import check_answers, save_sheet
from pipeline.reviewing.review_sheet import sheet_rows
from pipeline.runs.directory import RunDirectory, existing_run, write_atomically
from pipeline.text.decisions import ANSWERS_RIGHT, ANSWERS_WRONG, UNSURE
from pipeline.training.main_run import role_labels
from pipeline.verification.results import read_results
from pipeline.verification.retrain import retraining_path
from pipeline.workers.worker import run_data

METADATA = b"winnow_holdout_review"
STRATUM = "holdout"
"""The value of the column `stratum` in sheets of holdout rows."""

ARMS = ("removed", "relabelled", "mixed", "cleaned")
WORDS = dict.fromkeys(ANSWERS_RIGHT, 0.0) | dict.fromkeys(ANSWERS_WRONG, 1.0) | {UNSURE: np.nan}
"""Answer → 1 for a wrong label, 0 for a right one, NaN if the person is unsure."""
LIKELY_SHARE = 0.1
"""The assumed share of wrong labels if detection has no estimate for the holdout rows."""


@dataclass(frozen=True)
class HoldoutReview:
    """The plan of a sample of holdout rows and the answers so far; rows are in the order of the encoded rows.

    Attributes:
        keys: the row keys, `[rows]`.
        wrong: float64 `[rows]`, the probability that the label is wrong, as estimated when the review began.
        sizes: float64 `[rows]`, q of `holdout_sample`.
        seed: of the order in which rows are drawn.
        asked: how many rows of this order have been on a sheet.
        verdicts: row key → verdict.
        labels: row key → the label that a person named.
    """

    keys: list[str]
    wrong: np.ndarray
    sizes: np.ndarray
    seed: int
    asked: int
    verdicts: dict[str, str]
    labels: dict[str, Any]

    @property
    def order(self) -> np.ndarray:
        return draw_order(self.sizes, self.seed)

    @property
    def sample_id(self) -> str:
        text = json.dumps([self.seed, self.keys, self.sizes.tolist()])
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def answered(self) -> np.ndarray:
        """The places of the rows with an answer, int64, in the order in which they were asked about."""
        head = self.order[: self.asked]
        return head[[self.keys[place] in self.verdicts for place in head]] if len(head) else head

    @property
    def chance(self) -> np.ndarray:
        """The probability of each row to be among the rows with an answer, float64 `[rows]`."""
        return chances(self.sizes, len(self.answered))

    def share(self) -> Share | None:
        """The estimated share of wrong labels among the holdout rows; None with fewer than two answers."""
        places = self.answered
        answers = np.array([WORDS[self.verdicts[self.keys[place]]] for place in places])
        return estimate_share(self.wrong, self.sizes, places, answers)

    def save(self, path: Path) -> None:
        about = json.dumps({"seed": self.seed, "asked": self.asked})
        label = [None if key not in self.labels else json.dumps(self.labels[key]) for key in self.keys]
        table = pa.table(
            {
                "row_key": pa.array(self.keys, pa.string()),
                "wrong": self.wrong,
                "size": self.sizes,
                "verdict": pa.array([self.verdicts.get(key) for key in self.keys], pa.string()),
                "label": pa.array(label, pa.string()),
            }
        ).replace_schema_metadata({METADATA: about.encode()})
        with write_atomically(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: Path) -> HoldoutReview:
        table = pq.read_table(path, partitioning=None)
        about = json.loads(table.schema.metadata[METADATA])
        keys, verdicts, labels = (table[name].to_pylist() for name in ("row_key", "verdict", "label"))
        return cls(
            keys,
            table["wrong"].to_numpy(),
            table["size"].to_numpy(),
            about["seed"],
            about["asked"],
            {key: verdict for key, verdict in zip(keys, verdicts) if verdict is not None},
            {key: json.loads(label) for key, label in zip(keys, labels) if label is not None},
        )


@dataclass(frozen=True)
class HoldoutState:
    """The state of a review of holdout rows.

    Attributes:
        rows: how many holdout rows there are.
        answered: how many of them have an answer.
        open: how many rows on sheets have no answer.
        share: the estimated share of wrong labels; None with fewer than two answers.
        changed: how many earlier answers the last sheet has changed.
    """

    rows: int
    answered: int
    open: int
    share: Share | None
    changed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_review(run_path: Path) -> HoldoutReview | None:
    """Read the review of the holdout rows of a run; None if there is none."""
    path = run_path / ANSWERS
    if not path.exists():
        return None
    check_answers(RunDirectory(run_path), ANSWERS)
    return HoldoutReview.load(path)


def write_holdout_sheet(
    path: str | Path, sample: int, sheet: str | Path | None = None
) -> tuple[Path | None, int]:
    """Write a sheet with at most `sample` holdout rows; a later sheet has the next rows of the sample.

    Args:
        path: a run directory.
        sample: how many rows to ask about.
        sheet: a file that ends in .csv or .parquet; None takes `review/holdout-N.csv` in the run.

    Returns:
        The path of the sheet and its number of rows; None and 0 if people have been asked about all rows.

    Raises:
        InputError: the run has no holdout rows, their labels are declared right, or the sheet exists.
    """
    if sample < 1:
        raise InputError(f"--holdout {sample}: not a number of rows", "Ask for at least one.")
    run, config = _opened(path)
    review = read_review(run.path) or _begin(run, config)
    asked = review.order[review.asked : review.asked + sample].tolist()
    if not asked:
        return None, 0
    target = Path(sheet) if sheet is not None else _next_sheet(run)
    if target.exists() and not left_over(target):
        raise InputError(f"{target}: exists already", "Choose another name by --sheet, or remove the file.")
    if target.suffix not in (".csv", ".parquet"):
        raise InputError(f"{target}: neither .csv nor .parquet", "Choose a name with one of these endings.")
    with run.lock():
        lines = sheet_rows(run, config.data, [review.keys[place] for place in asked])
        for line in lines:
            line |= {"verdict": "", "stratum": STRATUM, "sample": review.sample_id}
        save_sheet(target, lines)
        replace(review, asked=review.asked + len(asked)).save(run / ANSWERS)
        Step(target).finish()
    return target, len(lines)


def take_holdout_answers(path: str | Path, sheet: str | Path) -> HoldoutState:
    """Read a filled sheet of holdout rows and store its answers in the run; new answers replace earlier ones.

    Raises:
        InputError: a line of the sheet is wrong, as in a file of decisions, or its row is not in the sample.
    """
    run, config = _opened(path)
    review = read_review(run.path)
    if review is None:
        raise InputError(
            f"{path}: no sheet of holdout rows was written", "Begin with `winnow review RUN --holdout N`."
        )
    lines = read_decisions(Path(sheet))
    asked = {review.keys[place] for place in review.order[: review.asked]}
    _check_asked(Path(sheet), lines, asked)
    words = find_rows(config, run.path, lines).get("holdout", {})
    verdicts = {word.line.key: word.line.word for word in words.values()}
    labels = {word.line.key: word.label for word in words.values() if word.label is not None}
    changed = sum(review.verdicts.get(key, word) != word for key, word in verdicts.items())
    kept = {key: label for key, label in review.labels.items() if key not in verdicts}
    review = replace(review, verdicts=review.verdicts | verdicts, labels=kept | labels)
    with run.lock():
        review.save(run / ANSWERS)
    return replace(_state_of(review), changed=changed)


def holdout_state(path: str | Path) -> HoldoutState | None:
    """The state of the review of the holdout rows; None if there is none."""
    review = read_review(Path(path))
    return None if review is None else _state_of(review)


def is_holdout_sheet(sheet: str | Path) -> bool:
    """Whether `write_holdout_sheet` wrote the sheet; False for an unreadable file, which later code reports."""
    try:
        _, first = next(iter(read_entries(Path(sheet))), ("", {}))
    except InputError:
        return False
    return first.get("stratum") == STRATUM


def _state_of(review: HoldoutReview) -> HoldoutState:
    answered = len(review.answered)
    return HoldoutState(len(review.keys), answered, review.asked - answered, review.share())


def _check_asked(sheet: Path, lines: list[DecisionLine], asked: set[str]) -> None:
    for line in lines:
        if line.key not in asked:
            raise InputError(
                f"{line.place}: row {line.key!r} is not in the sample of holdout rows",
                "Fill in the sheet that `winnow review RUN --holdout N` wrote. Decisions about other rows go to "
                f"`winnow export RUN --decisions {sheet}`.",
            )


def _opened(path: str | Path) -> tuple[RunDirectory, AuditConfig]:
    """Open a run for a review of its holdout rows.

    Raises:
        InputError: detection is not done, there are no holdout rows, or their labels are declared right.
    """
    run = existing_run(path, "detect")
    run.check_stages("prepare", "detect")
    config = load_config(run / "config.yaml")
    if config.data.labels_are_clean("holdout"):
        raise InputError(
            f"{path}: the holdout labels are declared right",
            "Set data.holdout_is_clean: false to review them.",
        )
    if not run.facts("prepare")["rows"].get("holdout"):
        raise InputError(
            f"{path}: the run has no holdout rows", "Give data.holdout, or data.split a share of it."
        )
    return run, config


def _begin(run: RunDirectory, config: AuditConfig) -> HoldoutReview:
    keys = read_catalog(run.path, "holdout", ["row_key"])["row_key"].to_pylist()
    wrong = _chance_wrong(run, len(keys))
    sizes = row_sizes(wrong, _disagreement(run, config, len(keys)))
    return HoldoutReview(keys, wrong, sizes, config.detection.seed, 0, {}, {})


def _chance_wrong(run: RunDirectory, rows: int) -> np.ndarray:
    """The probability that the label of each holdout row is wrong, float64 `[rows]`.

    It comes from the posterior of detection, or else from the suspicion scaled to the estimated share of wrong labels.
    """
    path = run / "detection/posterior-holdout.npy"
    if path.exists():
        posterior, given = np.load(path, mmap_mode="r"), role_labels(run_data(run.path), "holdout").numpy()
        return np.clip(1 - posterior[np.arange(rows), given].astype(np.float64), 0, 1)
    table = pq.read_table(
        run / "rows.parquet",
        columns=["suspicion"],
        filters=pc.field("split") == "holdout",
        partitioning=None,
    )
    if table.num_rows != rows:
        raise InputError(
            f"{run.path}: its holdout rows were not judged", "Run `winnow audit` again in this run."
        )
    suspicion = table["suspicion"].to_numpy()
    share = (run.facts("detect").get("estimated_noise_holdout") or {}).get("value") or LIKELY_SHARE
    return np.clip(suspicion * share / max(suspicion.mean(), 1e-9), 0, 1)


def _disagreement(run: RunDirectory, config: AuditConfig, rows: int) -> np.ndarray:
    """How much the results of verification's arms differ on each row, float64 `[rows]` in 0..1; 1 without results."""
    seeds = range(config.verification.seed, config.verification.seed + config.verification.seeds)

    def scores(arm: str) -> np.ndarray | None:
        paths = [retraining_path(run.path, arm, seed) for seed in seeds]
        there = paths and all(path.exists() for path in paths)
        return read_results(paths).scores.mean(0) if there else None

    given, others = scores("as_given"), [found for arm in ARMS if (found := scores(arm)) is not None]
    if given is None or not others or len(given) != rows:
        return np.ones(rows)
    found = np.max([np.abs(other - given) for other in others], axis=0)
    return found / found.max() if found.max() > 0 else np.ones(rows)


def _next_sheet(run: RunDirectory) -> Path:
    number = 1
    while (path := run / f"review/holdout-{number}.csv").exists() and not left_over(path):
        number += 1
    return path
