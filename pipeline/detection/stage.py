"""The stage `detect`: evidence about every row, one ranking, how many to flag, and the decision with its reasons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.compute.attribute import scores_path
from pipeline.compute.worker import run_data
from pipeline.context import AuditContext
from pipeline.data.encoded import EncodedData
from pipeline.detection.backdoor.backdoors import BackdoorResult, find_backdoors
from pipeline.detection.combination import Signal, suspicion
from pipeline.detection.counts import (
    Counts,
    NoiseEstimate,
    count_classification,
    count_contradictions,
    count_regression,
    estimate_noise,
)
from pipeline.detection.decisions import decide
from pipeline.detection.halves import Opinion, half_confidence, in_sample, on_validation, out_of_sample
from pipeline.detection.harm import early_harm
from pipeline.detection.loss import early_loss
from pipeline.detection.margin import early_margin
from pipeline.detection.neighbours import neighbour_margin
from pipeline.detection.reasons import reasons
from pipeline.detection.table import conflicting_duplicates, write_rows, write_signals
from pipeline.training.main_run import role_labels

DECILES = 10
BLIND = "Blind to wrong labels that follow the model's own confusion; the interval covers sampling alone."
DIRTY = "The validation labels are not known to be clean: if they are wrong too, the estimate is too low."
NO_VALIDATION = "Without validation rows there is nothing to compare the train labels with."
NO_HALVES = "Without halves (detection.halves) there is no out-of-sample evidence to estimate from."
HARD = "The classes are too hard to tell apart for an estimate."
REGRESSION = "For a numeric target, rows are flagged by how far out their out-of-sample residual is."


def detect(context: AuditContext) -> dict[str, Any]:
    """Write signals.parquet and rows.parquet; returns the facts for the record."""
    path, config = context.run.path, context.config
    data = run_data(path)
    facts = context.run.facts("train")
    early = int(facts["early_epoch"])
    window = min(2 * early, int(facts["epochs"]))
    scores = read_scores(path, data)
    row_ids, labels = scores["row_id"], role_labels(data, "train").numpy()
    opinion = out_of_sample(path, window) if config.detection.halves else in_sample(path, window)
    signals = collect_signals(context, scores, opinion, early, window)
    ranking = suspicion(signals, row_ids)
    harm = next((signal.values for signal in signals if signal.name == "early_harm"), None)

    classification = data.encoding.task == "classification"
    noise, note = judge_noise(context, opinion, labels, window)
    if classification:
        contradicted = opinion.best != labels
        counts = count_rows(signals, contradicted, opinion, harm, noise)
        strata = labels
    else:
        residuals = opinion.best - labels
        counts = count_regression(residuals)
        contradicted = rank_of(np.abs(residuals)) < counts.review
        strata = np.minimum(rank_of(-labels) * DECILES // len(labels), DECILES - 1)
    probability = np.where(contradicted, opinion.probability, np.nan)
    backdoors = find_backdoors(context) if config.detection.backdoors else BackdoorResult([], None, [])
    carriers = backdoors.carriers(len(labels))
    decision = decide(config.detection, ranking, row_ids, strata, counts, probability, carriers)
    codes = reasons(decision, contradicted, harm, conflicting_duplicates(path), carriers)
    write_signals(path, signals)
    by_name = {signal.name: signal.values for signal in signals}
    means = {"mean_loss": by_name["early_loss"], "mean_margin": by_name.get("early_margin")}
    write_rows(path, scores, means, ranking, opinion, contradicted, decision, codes, backdoors.scores)
    removed = int((decision == "remove").sum())
    wanted = 0 if config.detection.rule == "ranking" else counts.likely_wrong + int(carriers.sum())
    relabelled = int((decision == "relabel").sum())
    return {
        "signals": [signal.name for signal in signals],
        "words": {signal.name: signal.words for signal in signals},
        "early_epoch": early,
        "window_epochs": window,
        "estimated_noise": None if noise is None else asdict(noise),
        "estimated_noise_note": note,
        "likely_wrong": counts.likely_wrong,
        "review": counts.review,
        "caps": None
        if removed + relabelled >= wanted
        else f"{wanted - removed - relabelled} rows that look wrong or poisoned are left for review by the caps on removal",
        "flag_notes": flag_notes(context, harm) + backdoors.notes,
        "backdoors": [alarm.as_json() for alarm in backdoors.alarms],
    }


def read_scores(run_path: Path, data: EncodedData) -> dict[str, np.ndarray]:
    """The columns of scores/ for all train rows in their order, lists as 2-d arrays."""
    parts = [pq.read_table(scores_path(run_path, chunk)) for chunk in data.chunks("train")]
    names = ("row_id", "self_influence", "validation_harm", "early_harm", "final_loss", "prediction")
    return {name: np.concatenate([part[name].to_numpy() for part in parts]) for name in names}


def collect_signals(
    context: AuditContext, scores: dict[str, np.ndarray], opinion: Opinion, early: int, window: int
) -> list[Signal]:
    """The evidence that there is for this dataset and config."""
    path, config = context.run.path, context.config
    data = run_data(path)
    signals = []
    if data.encoding.task == "classification":
        signals.append(early_margin(path, window))
    signals.append(early_loss(path, early))
    if config.data.validation_is_clean and data.count("validation"):
        of_window = scores["early_harm"] if context.run.facts("attribute")["early_harm"] else None
        signals.append(early_harm(of_window, scores["validation_harm"]))
    signals.append(neighbour_margin(context))
    if config.detection.halves:
        signals.append(half_confidence(opinion))
    return signals


def judge_noise(
    context: AuditContext, opinion: Opinion, labels: np.ndarray, window: int
) -> tuple[NoiseEstimate | None, str]:
    """The estimated share of wrong labels, or None, and what must be said about it."""
    path, data = context.run.path, run_data(context.run.path)
    if data.encoding.task == "regression":
        return None, REGRESSION
    if not context.config.detection.halves:
        return None, NO_HALVES
    if not data.count("validation"):
        return None, NO_VALIDATION
    validation = on_validation(path, window).best != role_labels(data, "validation").numpy()
    noise = estimate_noise(opinion.best != labels, validation, data.encoding.outputs)
    if noise is None:
        return None, HARD
    return noise, BLIND if context.config.data.validation_is_clean else f"{BLIND} {DIRTY}"


def count_rows(
    signals: list[Signal],
    contradicted: np.ndarray,
    opinion: Opinion,
    harm: np.ndarray | None,
    noise: NoiseEstimate | None,
) -> Counts:
    evidence = [contradicted]
    evidence += [s.values < 0 for s in signals if s.name in ("early_margin", "neighbour_margin")]
    contradictions = count_contradictions(evidence, harm, opinion.probability > 0.5)
    return count_classification(contradictions, noise, len(contradicted))


def rank_of(values: np.ndarray) -> np.ndarray:
    """0 for the largest value, int64 `[rows]`."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return ranks


def flag_notes(context: AuditContext, harm: np.ndarray | None) -> list[str]:
    notes = []
    if context.config.detection.rule == "ranking":
        notes.append("Rule `ranking`: nothing is removed; the rows to review are a queue.")
    if harm is None:
        notes.append("Harm to the validation loss is not used as evidence: the validation labels are not declared clean.")
    return notes
