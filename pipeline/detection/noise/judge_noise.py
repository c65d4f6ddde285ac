"""Estimates by the halves of how many labels are wrong, in all and per pair of labels, and notes on their limits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.encode import Encoding
from pipeline.detection.judges.halves import Opinion, on_validation, reading, role_files
from pipeline.detection.judges.label_sets import Pairs, mean_chances
from pipeline.detection.judges.target_judges import TargetJudges
from pipeline.detection.noise.confused_pairs import Pair, confused_pairs
from pipeline.detection.noise.noise_estimate import NoiseEstimate, estimate_noise, estimate_wrong_targets
from pipeline.detection.noise.validation_doubts import doubts
from pipeline.detection.noise.wrong_share import estimate_wrong_answers as estimate_answers_alone
from pipeline.detection.noise.wrong_targets import FEWEST_ROWS, estimate_exchanged_targets
from pipeline.runs.context import AuditContext
from pipeline.seeds import random_state
from pipeline.text.decisions import Decision
from pipeline.training.halves import HALVES
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

BLIND = "Blind to wrong labels that follow the model's own confusion; the interval covers sampling alone."
CONFUSION = (
    "By judges that never saw the rows, without any row whose label is known to be right; blind to wrong labels that "
    "follow the judges' own confusion."
)
UNCLEAR = "The judges predict too little of the labels to tell wrong labels from their own errors."
UNTOLD = (
    "Judges that never saw the rows contradict {contradicted} of the labels, but hardly any surely. Either these rows "
    "are hard, or labels are wrong just where rows are hard: nothing in the data tells which. Up to about as many "
    "labels may be wrong; people's answers on a sample can tell."
)
DIRTY = "The validation labels are not declared clean, so the train labels can't be compared with them."
NO_VALIDATION = "Without validation rows there is nothing to compare the train labels with."
NO_HALVES = "Without halves (detection.halves) there is no out-of-sample evidence to estimate from."
HARD = "The classes are too hard to tell apart for an estimate."
RESIDUALS = "Wrong targets are taken to be as far off as another row's; nearer ones are not seen."
ANSWERS = "Of all answers: whether a row has a label or not is one, for every row and every label."
NO_RIGHT_TARGET = "No row is known to be right: the estimate is made from the residuals of the judges alone."
WEAK = "The model predicts too little of the target for an estimate."
FEW_TARGETS = f"Fewer than {FEWEST_ROWS} rows are too few for an estimate."


@dataclass(frozen=True)
class Noise:
    """What is estimated about label noise.

    Attributes:
        estimate: the share of wrong labels, or None.
        note: the limits of the estimate, or why there is none, in sentences.
        pairs: the pairs of labels with the most wrong labels.
        contradicted: the share of labels that the out-of-sample judges together contradict, or None.
    """

    estimate: NoiseEstimate | None
    note: str
    pairs: list[Pair]
    contradicted: float | None = None


def judge_noise(context: AuditContext, opinion: Opinion, labels: np.ndarray, window: int) -> Noise:
    """Estimate label noise from the opinions of the halves on train and validation rows.

    Args:
        context: of the audit.
        opinion: on the train rows.
        labels: encoded, `[train rows]`.
        window: epochs of the early window.
    """
    path, data = context.run.path, run_data(context.run.path)
    missing = _nothing_to_compare(context)
    if missing is not None:
        return Noise(None, missing, [])
    of_validation, best = role_labels(data, "validation").numpy(), on_validation(path, window)
    if data.encoding.task == "regression":
        return _judge_targets(context, labels, opinion.best, of_validation - best)
    contradicted, contradicted_validation = opinion.best != labels, (best != of_validation).mean(0)
    estimate = estimate_noise(contradicted, contradicted_validation, data.encoding.outputs)
    said = doubts(contradicted, contradicted_validation, estimate)
    if estimate is None:
        return Noise(None, " ".join([HARD, *said]), [])
    pairs = confused_pairs(labels, opinion.best, of_validation, best, data.encoding.outputs)
    return Noise(estimate, " ".join([BLIND, *said]), pairs)


def _judge_targets(
    context: AuditContext, targets: np.ndarray, predicted: np.ndarray, of_validation: np.ndarray
) -> Noise:
    """The same for numeric targets; `of_validation` has residuals, `[halves, validation rows]`."""
    order = random_state("exchanged targets", context.config.detection.seed).permutation(len(targets))
    estimate = estimate_wrong_targets(targets - predicted, of_validation, targets[order] - predicted)
    if estimate is None:
        return Noise(None, WEAK, [])
    return Noise(estimate, RESIDUALS, [])


def judge_targets_alone(judges: TargetJudges, seed: int) -> Noise:
    """Estimate the share of wrong numeric targets from the panel, where no validation target is known to be right."""
    estimate = exchanged_targets_of(judges, "train", judges.given, seed)
    if estimate is None:
        few = len(judges.given) < FEWEST_ROWS
        return Noise(None, FEW_TARGETS if few else WEAK, [])
    return Noise(estimate, f"{RESIDUALS} {NO_RIGHT_TARGET}", [])


def exchanged_targets_of(
    judges: TargetJudges, role: str, targets: np.ndarray, seed: int
) -> NoiseEstimate | None:
    """`estimate_exchanged_targets` for the rows of a role, by the judges together and by each that counts."""
    alone = [judges.panel.of(each.name, role) for each in judges.panel.judges if each.counts]
    predictions = [judges.predicted(role), *(np.asarray(each, dtype=np.float64) for each in alone)]
    return estimate_exchanged_targets(targets.astype(np.float64), predictions, judges.explains, seed)


def judge_answers(context: AuditContext, answers: Pairs, window: int) -> Noise:
    """The same for sets of labels: the share of wrong answers (yes or no) over all labels of all rows."""
    path = context.run.path
    if answers.panel is not None:
        chances = np.where(answers.given > 0, answers.panel, 1 - answers.panel)
        estimate = estimate_answers_alone(chances, answers.given, context.config.detection.seed)
        return Noise(estimate, f"{ANSWERS} {CONFUSION}", [])
    missing = _nothing_to_compare(context)
    if missing is not None:
        return Noise(None, missing, [])
    found = _estimate_wrong_answers(path, answers, window)
    return Noise(found, HARD if found is None else f"{ANSWERS} {BLIND}", [])


def _estimate_wrong_answers(run_path: Path, pairs: Pairs, window: int) -> NoiseEstimate | None:
    """The share of wrong answers; for the interval, the labels of a row are one observation."""
    labels = role_labels(run_data(run_path), "validation").numpy()
    wrong = [
        (mean_chances(reading(role_files(run_path, half, "validation", window)), labels.shape, window) > 0.5)
        != labels
        for half in HALVES
    ]
    return estimate_noise(pairs.contradicted.mean(1), np.mean(wrong, axis=(0, 2)), classes=2)


def _nothing_to_compare(context: AuditContext) -> str | None:
    """Why train rows can't be compared with validation rows, in words; None if they can."""
    if not context.config.detection.halves:
        return NO_HALVES
    if not run_data(context.run.path).count("validation"):
        return NO_VALIDATION
    return None if context.config.data.validation_is_clean else DIRTY


def pairs_as_json(
    pairs: list[Pair], encoding: Encoding, labels: np.ndarray, best: np.ndarray, decision: np.ndarray
) -> list[dict[str, Any]]:
    """The pairs for JSON, with labels of the source and `flagged`, the number of the pair's rows that are not kept."""
    flagged = decision != Decision.KEEP
    return [
        asdict(pair)
        | {
            "given": encoding.classes[pair.given],
            "suggested": encoding.classes[pair.suggested],
            "flagged": int((flagged & (labels == pair.given) & (best == pair.suggested)).sum()),
        }
        for pair in pairs
    ]
