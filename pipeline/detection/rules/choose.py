"""Applies the rule of the config: which rows are to be removed, and what is guaranteed about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import AuditConfig
from pipeline.data.canaries import planted_rows
from pipeline.data.named_rows import trusted_rows
from pipeline.detection.noise.flag_counts import Counts
from pipeline.detection.people.answers import ReviewAnswers, ranking_hash
from pipeline.detection.people.review_sample import RIGHT, UNANSWERED, WRONG, judge, rows_to_remove
from pipeline.detection.rules import promises
from pipeline.detection.rules.decide import FlagChoice, Ranked, removable
from pipeline.detection.rules.promises import Promise
from pipeline.detection.rules.trusted import flag_by_trusted
from pipeline.errors import InputError
from pipeline.runs.directory import write_atomically

CANDIDATES = "detection/candidates.parquet"


def choose(config: AuditConfig, run_path: Path, rows: Ranked, counts: Counts) -> tuple[FlagChoice, Promise]:
    """Apply `detection.rule` to the ranking.

    Raises:
        InputError: trusted rows are not train rows, or answers are about another ranking.
    """
    rule = config.detection.rule
    if rule == "trusted":
        return _choose_by_trusted(config, run_path, rows, counts)
    if rule == "reviewed":
        return _choose_by_answers(config, rows, counts)
    nobody = np.zeros(len(rows.suspicion), dtype=bool)
    if rule == "ranking":
        return FlagChoice(rows.order[:0], counts.review, nobody, nobody), promises.of_ranking()
    choice = FlagChoice(rows.order[: counts.likely_wrong], counts.review, nobody, nobody)
    return choice, promises.of_budget(config.detection)


def _choose_by_trusted(
    config: AuditConfig, run_path: Path, rows: Ranked, counts: Counts
) -> tuple[FlagChoice, Promise]:
    trusted, nobody = np.zeros((2, len(rows.suspicion)), dtype=bool)
    trusted[trusted_rows(config, run_path)] = True
    trusted &= ~planted_rows(run_path, len(trusted))
    flags = flag_by_trusted(rows.suspicion, trusted, rows.strata, config.detection.false_flag_rate)
    order = rows.order
    choice = FlagChoice(order[flags.flagged[order]], counts.review, trusted, nobody)
    return choice, promises.of_trusted(config.detection, flags)


def _choose_by_answers(config: AuditConfig, rows: Ranked, counts: Counts) -> tuple[FlagChoice, Promise]:
    """Choose by the answers of a review.

    Chosen are the top candidates up to the largest cut-off whose precision is shown, without rows that a person did not
    call wrong, and all further candidates that a person called wrong. Both changes can only raise the precision.
    """
    path = Path(config.detection.answers or "")
    answers, candidates = ReviewAnswers.load(path), removable(config.detection, rows)
    _check_same_review(path, answers, config, rows.row_ids[candidates])
    verdicts = answers.of_candidates(rows.row_ids[candidates])
    cutoffs = judge(answers.plan, verdicts)
    asked, in_head = candidates[: len(verdicts)], np.arange(len(verdicts)) < rows_to_remove(cutoffs)
    wanted = in_head & ((verdicts == UNANSWERED) | (verdicts == WRONG))
    right, confirmed = np.zeros((2, len(rows.suspicion)), dtype=bool)
    right[asked[verdicts == RIGHT]] = True
    confirmed[asked[verdicts == WRONG]] = True
    wrong = np.concatenate([asked[wanted], asked[~in_head & (verdicts == WRONG)]])
    choice = FlagChoice(wrong, max(counts.review, int(in_head.sum())), right, confirmed)
    return choice, promises.of_reviewed(config.detection, cutoffs)


def _check_same_review(path: Path, answers: ReviewAnswers, config: AuditConfig, row_ids: np.ndarray) -> None:
    wanted = (config.detection.precision, config.detection.confidence)
    planned = (answers.plan.precision, answers.plan.confidence)
    if wanted != planned:
        raise InputError(
            f"{path}: the sample was drawn to show a precision of {planned[0]:g} at a confidence of {planned[1]:g}, "
            f"not {wanted[0]:g} at {wanted[1]:g}",
            "Set detection.precision and detection.confidence to these, or begin a new review.",
        )
    if ranking_hash(row_ids, answers.plan) != answers.ranking:
        raise InputError(
            f"{path}: the answers are about another ranking than this audit's",
            "Only what comes after detection may differ from the reviewed run; else begin a new review.",
        )


def write_candidates(run_path: Path, candidates: np.ndarray) -> None:
    """Write the places of the removable rows among the audited rows, the most suspicious first."""
    with write_atomically(run_path / CANDIDATES) as temporary:
        pq.write_table(pa.table({"row": candidates}), temporary, compression="zstd")


def read_candidates(run_path: Path) -> np.ndarray:
    """Read the places that `write_candidates` wrote.

    Raises:
        InputError: detection is not done.
    """
    if not (run_path / CANDIDATES).exists():
        raise InputError(f"{run_path}: detection is not done", "Run `winnow audit` to its end.")
    return pq.read_table(run_path / CANDIDATES, partitioning=None)["row"].to_numpy()
