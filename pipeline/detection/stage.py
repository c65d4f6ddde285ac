"""The stage `detect`: evidence about every row, one ranking, how many to flag, and the decision with its reasons."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.compute.attribute import scores_path
from pipeline.compute.worker import run_data
from pipeline.context import AuditContext
from pipeline.data.encoded import EncodedData
from pipeline.detection.backdoor.backdoors import BackdoorResult, find_backdoors
from pipeline.detection.columns import Column, columns_directory
from pipeline.detection.combination import Signal, suspicion
from pipeline.detection.counts import (
    Counts,
    NoiseEstimate,
    count_classification,
    count_contradictions,
    count_regression,
    estimate_noise,
)
from pipeline.detection.decisions import RELABEL, REMOVE, decide
from pipeline.detection.halves import Opinion, half_confidence, in_sample, on_validation, out_of_sample
from pipeline.detection.harm import early_harm
from pipeline.detection.loss import early_loss
from pipeline.detection.margin import early_margin
from pipeline.detection.neighbours import neighbour_margin
from pipeline.detection.reasons import reasons
from pipeline.detection.table import Judgement, conflicting_duplicates, write_rows, write_signals
from pipeline.run import remove
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
    row_ids, labels = read_score(path, data, "row_id"), role_labels(data, "train").numpy()
    opinion = out_of_sample(path, window) if config.detection.halves else in_sample(path, window)
    signals = collect_signals(context, opinion, early, window)
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
    judgement = Judgement(
        suspicion=ranking,
        opinion=opinion,
        contradicted=contradicted,
        decision=decision,
        reasons=codes,
        backdoor_scores=backdoors.scores,
        mean_loss=by_name["early_loss"],
        mean_margin=by_name.get("early_margin"),
    )
    write_rows(path, judgement)
    remove(columns_directory(path))
    removed = int((decision == REMOVE).sum())
    wanted = 0 if config.detection.rule == "ranking" else counts.likely_wrong + int(carriers.sum())
    relabelled = int((decision == RELABEL).sum())
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
        else f"{wanted - removed - relabelled} rows that look wrong or poisoned are left for review by the caps",
        "flag_notes": flag_notes(context, harm) + backdoors.notes,
        "backdoors": [alarm.as_json() for alarm in backdoors.alarms],
    }


def read_score(run_path: Path, data: EncodedData, name: str) -> np.ndarray:
    """A column of scores/ for all train rows in their order."""
    chunks = data.chunks("train")
    parts = (pq.read_table(scores_path(run_path, chunk), columns=[name])[name].to_numpy() for chunk in chunks)
    values = np.empty(data.count("train"), dtype=np.int64 if name == "row_id" else np.float64)
    for chunk, part in zip(chunks, parts):
        values[chunk.first : chunk.first + chunk.rows] = part
    return values


def collect_signals(context: AuditContext, opinion: Opinion, early: int, window: int) -> list[Signal]:
    """The evidence that there is for this dataset and config; its values are left on disk."""
    path, config = context.run.path, context.config
    data = run_data(path)
    signals = []
    if data.encoding.task == "classification":
        signals.append(stored(path, early_margin(path, window)))
    signals.append(stored(path, early_loss(path, early)))
    if config.data.validation_is_clean and data.count("validation"):
        of_window = context.run.facts("attribute")["early_harm"]
        harm = read_score(path, data, "early_harm" if of_window else "validation_harm")
        signals.append(stored(path, early_harm(harm)))
    signals.append(stored(path, neighbour_margin(context)))
    if config.detection.halves:
        signals.append(half_confidence(opinion))
    return signals


def stored(run_path: Path, signal: Signal) -> Signal:
    values = Column.write(columns_directory(run_path) / signal.name, [np.asarray(signal.values)])
    return replace(signal, values=values)


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
    harm: np.ndarray | Column | None,
    noise: NoiseEstimate | None,
) -> Counts:
    evidence = [contradicted]
    evidence += [np.asarray(s.values) < 0 for s in signals if s.name in ("early_margin", "neighbour_margin")]
    of_rows = None if harm is None else np.asarray(harm)
    contradictions = count_contradictions(evidence, of_rows, opinion.probability > 0.5)
    return count_classification(contradictions, noise, len(contradicted))


def rank_of(values: np.ndarray) -> np.ndarray:
    """0 for the largest value, int64 `[rows]`."""
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return ranks


def flag_notes(context: AuditContext, harm: np.ndarray | Column | None) -> list[str]:
    notes = []
    if context.config.detection.rule == "ranking":
        notes.append("Rule `ranking`: nothing is removed; the rows to review are a queue.")
    if harm is None:
        notes.append(
            "Harm to the validation loss is not used as evidence: the validation labels are not declared clean."
        )
    return notes
