"""The stage `detect`: evidence about every row, one ranking, how many to flag, and the decision with its reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.compute.worker import run_data
from pipeline.context import AuditContext
from pipeline.detection.backdoor.backdoors import BackdoorResult, find_backdoors
from pipeline.detection.calibration import Calibration, calibrate, suggestion_probability
from pipeline.detection.canaries import canary_recall
from pipeline.detection.columns import Column, columns_directory
from pipeline.detection.combination import Signal, suspicion
from pipeline.detection.corrupted import corrupted_rows
from pipeline.detection.counts import (
    DOUBTFUL_TARGET,
    Counts,
    NoiseEstimate,
    count_classification,
    count_contradictions,
    count_regression,
    robust_deviation,
)
from pipeline.detection.decisions import KEEP, RELABEL, REMOVE, REVIEW, Ranked, decide, removable
from pipeline.detection.group_harm import find_spurious
from pipeline.detection.halves import Opinion
from pipeline.detection.harm import early_harm, with_harm_weight
from pipeline.detection.label_sets import (
    collect_pairs,
    count_rows_of_pairs,
    flipped,
    pair_suspicion,
    row_signals,
)
from pipeline.detection.noise import Noise, judge_answers, judge_noise, pairs_as_json
from pipeline.detection.outliers import belongs_nowhere
from pipeline.detection.people import apply_people, count_people, read_people
from pipeline.detection.reasons import (
    AMBIGUOUS,
    BACKDOOR,
    CORRUPTED,
    DUPLICATE_CONFLICT,
    HARMFUL,
    MISLABELLED,
    OUTLIER,
    REVIEWED,
    SPURIOUS,
    ambiguous,
    outliers,
    reasons,
)
from pipeline.detection.repeats import repeated_signals
from pipeline.detection.representation import represent
from pipeline.detection.rules import choose, write_candidates
from pipeline.detection.signals import (
    collect_signals,
    early_window,
    harm_early,
    opinion_of,
    others,
    read_score,
    stored,
)
from pipeline.detection.strata import prediction_strata, write_strata
from pipeline.detection.table import Judgement, conflicting_duplicates, write_rows, write_signals
from pipeline.detection.undertrained import loss_without_features, undertrained
from pipeline.report import words
from pipeline.run import remove
from pipeline.training.main_run import role_labels


@dataclass(frozen=True)
class Labels:
    """What is thought of the given labels, all `[rows]` but the last two.

    given, suggested: encoded, sets of labels `[rows, labels]`; contradicted: bool, the suggested label fits better;
    probability: float64, that it is right, NaN without one; strata: int; counts: how many rows to flag; calibration:
    None where nothing was fitted.
    """

    given: np.ndarray
    suggested: np.ndarray
    contradicted: np.ndarray
    probability: np.ndarray
    strata: np.ndarray
    counts: Counts
    calibration: Calibration | None


@dataclass(frozen=True)
class Weighed:
    """The evidence, and what it says of the labels.

    ranking: float64 `[rows]`, the suspicion; nearest: float32 `[rows]`, distance to the nearest class.
    """

    signals: list[Signal]
    repeated: list[Signal]
    ranking: np.ndarray
    nearest: np.ndarray
    opinion: Opinion
    noise: Noise
    labels: Labels

    @property
    def harm(self) -> np.ndarray | Column | None:
        return next((signal.values for signal in self.signals if signal.name == "early_harm"), None)


def weigh(context: AuditContext, given: np.ndarray, early: int, window: int) -> Weighed:
    """Classes and numeric targets."""
    opinion = opinion_of(context)
    signals, nearest = collect_signals(context, opinion, early, window)
    noise = judge_noise(context, opinion, given, window)
    signals = with_harm_weight(signals, noise.estimate)
    repeated = with_harm_weight(repeated_signals(context), noise.estimate)
    if run_data(context.run.path).encoding.task == "classification":
        harm = next((signal.values for signal in signals if signal.name == "early_harm"), None)
        counts = count_rows(signals, opinion, given, harm, noise.estimate)
        labels = judge_classes(context, opinion, given, counts, window)
    else:
        labels = judge_targets(context, opinion, given, noise.estimate)
    ranking = suspicion(signals + repeated)
    return Weighed(signals, repeated, ranking, nearest, opinion, noise, labels)


def weigh_sets(context: AuditContext, row_ids: np.ndarray, early: int, window: int) -> Weighed:
    """Sets of labels: label by label, and a row by its most suspicious one, which the suggestion turns round."""
    path, seen = context.run.path, represent(context)
    pairs = collect_pairs(context, seen["neighbour_margin"], early, window)
    suspicious = pair_suspicion(pairs)
    worst = suspicious.argmax(1)
    harm = harm_early(context)
    of_rows = [] if harm is None else [replace(early_harm(harm), counts=False)]
    signals = [stored(path, each) for each in [*row_signals(pairs, worst), *of_rows, *others(context, seen)]]
    noise = judge_answers(context, pairs, window)
    own, suggested = pairs.own[np.arange(len(worst)), worst].astype(np.float64), flipped(pairs.given, worst)
    strata = pairs.predicted_sizes
    write_strata(path, strata)
    counts = count_rows_of_pairs(pairs, suspicious, row_ids, harm, noise.estimate)
    opinion = Opinion(own, suggested, np.maximum(own, 1 - own), np.minimum(own, 1 - own))
    probability = np.where(own < 0.5, 1 - own, np.nan)
    labels = Labels(pairs.given, suggested, own < 0.5, probability, strata, counts, None)
    nearest = seen["nearest_distance"]
    return Weighed(signals, [], suspicious.max(1), nearest, opinion, noise, labels)


def detect(context: AuditContext) -> dict[str, Any]:
    """Write signals.parquet and rows.parquet; returns the facts for the record."""
    path, config = context.run.path, context.config
    data = run_data(path)
    early, window = early_window(context)
    row_ids, given = read_score(path, data, "row_id"), role_labels(data, "train").numpy()
    if data.encoding.task == "multilabel":
        weighed = weigh_sets(context, row_ids, early, window)
    else:
        weighed = weigh(context, given, early, window)
    signals, harm, labels, noise = weighed.signals, weighed.harm, weighed.labels, weighed.noise
    backdoors = find_backdoors(context) if config.detection.backdoors else BackdoorResult([], None, [])
    carriers, poisoned = backdoors.carriers(len(given)), backdoors.wrong_carriers(len(given))
    corrupted = corrupted_rows(context)
    ranked = Ranked(weighed.ranking, row_ids, labels.strata, labels.probability, poisoned)
    choice, promise = choose(config, path, ranked, labels.counts)
    write_candidates(path, removable(config.detection, ranked))
    decision = decide(config.detection, ranked, choice)
    spurious = find_spurious(path, data, given)
    decision[(decision == KEEP) & (corrupted | spurious | carriers) & ~choice.right] = REVIEW
    applied = apply_people(decision, read_people(config, path).get("train"), labels.contradicted)
    decision, reviewed = applied.decision, choice.confirmed | applied.people
    evidence = {BACKDOOR: carriers, CORRUPTED: corrupted, SPURIOUS: spurious, REVIEWED: reviewed}
    evidence |= explain(path, labels, weighed.opinion, weighed.nearest)
    if harm is not None:
        evidence[HARMFUL] = np.asarray(harm) > 0
    codes = reasons(decision, evidence)
    write_signals(path, {"train": signals + weighed.repeated})
    by_name = {signal.name: signal.values for signal in signals}
    judgement = Judgement(
        suspicion=weighed.ranking,
        suggested=labels.suggested,
        suggested_probability=labels.probability,
        contradicted=labels.contradicted,
        decision=decision,
        reasons=codes,
        backdoor_scores=backdoors.scores,
        mean_loss=by_name["early_loss"],
        mean_margin=by_name.get("early_margin"),
        decided_by=applied.decided_by,
        own_labels=applied.own_labels,
    )
    write_rows(path, {"train": judgement})
    remove(columns_directory(path))
    removed = int((decision == REMOVE).sum())
    relabelled = int((decision == RELABEL).sum())
    wanted = 0 if config.detection.rule == "ranking" else len(choice.wrong) + int(poisoned.sum())
    return {
        "signals": [signal.name for signal in signals if signal.counts],
        "weights": {signal.name: signal.weight for signal in signals if signal.counts},
        "other_signals": [signal.name for signal in signals if not signal.counts],
        "words": {signal.name: signal.words for signal in signals},
        "early_epoch": early,
        "window_epochs": window,
        "estimated_noise": None if noise.estimate is None else asdict(noise.estimate),
        "estimated_noise_note": noise.note,
        "confused_pairs": pairs_as_json(noise.pairs, data.encoding, given, weighed.opinion.best, decision),
        "calibration": None if labels.calibration is None else asdict(labels.calibration),
        "corrupted": int(corrupted.sum()),
        "spurious": int(spurious.sum()),
        "likely_wrong": labels.counts.likely_wrong,
        "review": labels.counts.review,
        "removed": removed,
        "relabelled": relabelled,
        "to_review": int((decision == REVIEW).sum()),
        "by_people": count_people([applied]),
        "promise": promise.as_json(),
        "canaries": canary_recall(path, decision),
        "warnings": training_warnings(context, given),
        "caps": caps_note(wanted - removed - relabelled),
        "flag_notes": flag_notes(harm) + backdoors.notes,
        "backdoors": [alarm.as_json() for alarm in backdoors.alarms],
    }


def count_rows(
    signals: list[Signal],
    opinion: Opinion,
    given: np.ndarray,
    harm: np.ndarray | Column | None,
    noise: NoiseEstimate | None,
) -> Counts:
    evidence = [opinion.best != given]
    evidence += [np.asarray(s.values) < 0 for s in signals if s.name in ("early_margin", "neighbour_margin")]
    of_rows = None if harm is None else np.asarray(harm)
    contradictions = count_contradictions(evidence, of_rows, opinion.probability > 0.5)
    return count_classification(contradictions, noise, len(given))


def judge_classes(
    context: AuditContext, opinion: Opinion, given: np.ndarray, counts: Counts, window: int
) -> Labels:
    path = context.run.path
    calibration = calibrate(path, window) if context.config.detection.halves else None
    probability = opinion.probability
    if calibration is not None:
        probability = suggestion_probability(path, window, calibration)
    contradicted = opinion.best != given
    probability = np.where(contradicted, probability, np.nan)
    return Labels(given, opinion.best, contradicted, probability, given, counts, calibration)


def judge_targets(
    context: AuditContext, opinion: Opinion, given: np.ndarray, noise: NoiseEstimate | None
) -> Labels:
    deviation, strata = robust_deviation(given, opinion.best), prediction_strata(opinion.best)
    write_strata(context.run.path, strata)
    contradicted = deviation > DOUBTFUL_TARGET
    counts = count_regression(deviation, noise)
    return Labels(given, opinion.best, contradicted, opinion.probability, strata, counts, None)


def explain(path: Path, labels: Labels, opinion: Opinion, nearest: np.ndarray) -> dict[str, np.ndarray]:
    """Reasons that follow from labels and features, bool `[rows]` each; nearest: distance to the nearest class."""
    temperature = 1.0 if labels.calibration is None else labels.calibration.temperature
    return {
        DUPLICATE_CONFLICT: conflicting_duplicates(path),
        OUTLIER: outliers(belongs_nowhere(nearest), labels.probability),
        MISLABELLED: labels.contradicted,
        AMBIGUOUS: ambiguous(opinion.probability, opinion.runner_up, temperature),
    }


def training_warnings(context: AuditContext, given: np.ndarray) -> list[str]:
    task = run_data(context.run.path).encoding.task
    warning = undertrained(context.run.facts("train")["curve"], loss_without_features(given, task))
    return [] if warning is None else [warning]


def caps_note(left: int) -> str | None:
    if left <= 0:
        return None
    look, are = ("looks", "is") if left == 1 else ("look", "are")
    return f"{words.rows(left)} that {look} wrong or poisoned {are} left for review by the caps"


def flag_notes(harm: np.ndarray | Column | None) -> list[str]:
    notes = []
    if harm is None:
        notes.append(
            "Harm to the validation loss is not used as evidence: the validation labels are not declared clean."
        )
    return notes
