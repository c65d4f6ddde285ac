"""The stage `detect`: computes the evidence about every row, the ranking, and the decisions with their reasons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import AuditConfig
from pipeline.data.encoded import EncodedData
from pipeline.data.situation import situation
from pipeline.data.splits import ASIDE
from pipeline.detection.backdoor.backdoors import BackdoorResult, find_backdoors
from pipeline.detection.canary_recall import canary_recall
from pipeline.detection.columns import StoredColumn, columns_directory
from pipeline.detection.corrupted import corrupted_rows
from pipeline.detection.group_harm import find_spurious
from pipeline.detection.judges.halves import Opinion
from pipeline.detection.label_posteriors import write_measures
from pipeline.detection.noise.judge_noise import exchanged_targets_of, pairs_as_json
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.shares import mean_of_shares, share_of_rows
from pipeline.detection.other_roles import RULES, JudgedRole, judge_other_roles
from pipeline.detection.people.decided_rows import apply_people, count_history, count_people
from pipeline.detection.people.earlier_verdicts import people_of_run
from pipeline.detection.reasons import ambiguous, outliers, reasons
from pipeline.detection.representation.class_distance import belongs_nowhere
from pipeline.detection.rules.choose import choose, write_candidates
from pipeline.detection.rules.decide import Ranked, decide, removable
from pipeline.detection.rules.protection import (
    LEAST_WRONG,
    flags_of_rare,
    held_back,
    rare_classes,
    rare_note,
)
from pipeline.detection.signals.early_loss import EARLY_LOSS
from pipeline.detection.signals.early_margin import EARLY_MARGIN
from pipeline.detection.signals.evidence import early_window, read_score
from pipeline.detection.signals.panel_wrong import PANEL_WRONG
from pipeline.detection.sources.source_findings import sources_of_run
from pipeline.detection.table import (
    Judgement,
    aside_judgement,
    conflicting_duplicates,
    judged_roles,
    write_rows,
    write_signals,
)
from pipeline.detection.undertrained import undertrained
from pipeline.detection.weighing.sets import weigh_sets
from pipeline.detection.weighing.weigh import weigh
from pipeline.detection.weighing.weighed import Labels, Weighed, values_of
from pipeline.panel.judges import OWN, OWN_PROBABILITIES
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import remove
from pipeline.scoring.label_changes import label_change_effects
from pipeline.text import words
from pipeline.text.decisions import Decision
from pipeline.text.reasons import (
    AMBIGUOUS,
    BACKDOOR,
    CORRUPTED,
    DUPLICATE_CONFLICT,
    HARMFUL,
    MISLABELLED,
    OUTLIER,
    REVIEWED,
    SPURIOUS,
    Reason,
)
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data


def detect(context: AuditContext) -> dict[str, Any]:
    """Write signals.parquet and rows.parquet; returns the facts of the stage for the run's record."""
    path, config = context.run.path, context.config
    data = run_data(path)
    early, window = early_window(context)
    row_ids, given = read_score(path, data, "row_id"), role_labels(data, "train").numpy()
    if data.encoding.task == "multilabel":
        weighed = weigh_sets(context, row_ids)
    else:
        weighed = weigh(context, given, window)
    signals, harm, labels, noise = weighed.signals, weighed.harm, weighed.labels, weighed.noise
    backdoors = find_backdoors(context) if config.detection.backdoors else BackdoorResult([], None, [])
    carriers, poisoned = backdoors.carriers(len(given)), backdoors.wrong_carriers(len(given))
    corrupted = corrupted_rows(context)
    ranked = Ranked(weighed.ranking, row_ids, labels.strata, labels.probability, poisoned)
    choice, promise = choose(config, path, ranked, labels.counts)
    write_candidates(path, removable(config.detection, ranked))
    decision = decide(config.detection, ranked, choice)
    protected = _protected_rows(config, weighed, given, data.encoding.outputs) & ~poisoned
    decision = held_back(decision, protected)
    spurious = find_spurious(path, data, given)
    by_ranking = (decision != Decision.KEEP) & ~carriers & ~choice.confirmed
    decision[(decision == Decision.KEEP) & (corrupted | spurious | carriers) & ~choice.right] = (
        Decision.REVIEW
    )
    people = people_of_run(config, path)
    applied = apply_people(decision, people.get("train"), labels.contradicted)
    others = judge_other_roles(
        context, judged_roles(config, data), weighed, decision, by_ranking & ~applied.people, people
    )
    decision, reviewed = applied.decision, choice.confirmed | applied.people
    evidence = {BACKDOOR: carriers, CORRUPTED: corrupted, SPURIOUS: spurious, REVIEWED: reviewed}
    evidence |= _explain(path, labels, weighed.opinion, weighed.nearest)
    if harm is not None:
        evidence[HARMFUL] = np.asarray(harm) > 0
    codes = reasons(decision, evidence)
    removal, relabelling = effects(context, decision, labels)
    judgement = Judgement(
        suspicion=weighed.ranking,
        suggested=labels.suggested,
        suggested_probability=labels.probability,
        contradicted=labels.contradicted,
        decision=decision,
        reasons=codes,
        backdoor_scores=backdoors.scores,
        mean_loss=values_of(signals, EARLY_LOSS),
        mean_margin=values_of(signals, EARLY_MARGIN),
        decided_by=applied.decided_by,
        own_labels=applied.own_labels,
        removal_effect=removal,
        relabel_effect=relabelling,
    )
    write_measures(context, weighed)
    context.run.update_record(labels=situation(config, data))
    of_roles = {role: found.signals for role, found in others.items()}
    write_signals(path, {"train": signals + weighed.repeated} | of_roles)
    aside = aside_judgement(path, Decision.REVIEW if config.detection.rule == "ranking" else Decision.REMOVE)
    judged = {role: found.judgement for role, found in others.items()}
    write_rows(path, {"train": judgement, ASIDE: aside} | judged)
    remove(columns_directory(path))
    by_roles = [applied, *(found.applied for found in others.values())]
    removed = int((decision == Decision.REMOVE).sum())
    relabelled = int((decision == Decision.RELABEL).sum())
    wanted = 0 if config.detection.rule == "ranking" else len(choice.wrong) + int(poisoned.sum())
    kept_back = (
        wanted - removed - relabelled - int((protected & np.isin(np.arange(len(given)), choice.wrong)).sum())
    )
    return {
        "signals": [signal.name for signal in signals if signal.counts],
        "weights": {signal.name: signal.weight for signal in signals if signal.counts},
        "other_signals": [signal.name for signal in signals if not signal.counts],
        "words": {signal.name: signal.words for signal in signals},
        "signal_labels": {signal.name: signal.label for signal in signals},
        "low_is_suspicious": [
            signal.name for signal in signals + weighed.repeated if not signal.high_is_suspicious
        ],
        "sources": sources_of_run(path, weighed.panel, given, decision, noise.estimate),
        "judges": [] if weighed.judges is None else weighed.judges.as_json(),
        "explained": weighed.explains,
        "source_rates": None if weighed.rates is None else asdict(weighed.rates),
        "labels": situation(config, data),
        "early_epoch": early,
        "window_epochs": window,
        **_noise_facts(context, weighed, others),
        "confused_pairs": pairs_as_json(noise.pairs, data.encoding, given, labels.suggested, decision),
        "calibration": None if labels.calibration is None else asdict(labels.calibration),
        "corrupted": int(corrupted.sum()) + len(aside.decision),
        "spurious": int(spurious.sum()),
        "likely_wrong": labels.counts.likely_wrong,
        "review": labels.counts.review,
        "removed": removed,
        "relabelled": relabelled,
        "to_review": int((decision == Decision.REVIEW).sum()),
        "by_people": count_people(by_roles),
        "by_history": count_history(by_roles),
        "promise": promise.as_json(),
        "canaries": canary_recall(path, decision),
        "warnings": _training_warnings(context, given) + _judge_warnings(weighed),
        "caps": _caps_note(kept_back),
        "flag_notes": flag_notes(harm)
        + _evidence_notes(weighed)
        + _rare_notes(data, decision, given)
        + backdoors.notes,
        "backdoors": [alarm.as_json() for alarm in backdoors.alarms],
    }


def _protected_rows(config: AuditConfig, weighed: Weighed, given: np.ndarray, classes: int) -> np.ndarray:
    """Rows that are only removed by a person's decision or by a rule with a guarantee, bool `[rows]`."""
    if config.detection.rule not in RULES:
        return np.zeros(len(given), dtype=bool)
    if not weighed.may_remove:
        return np.ones(len(given), dtype=bool)
    wrong = weighed.labels.wrong
    if wrong is None:
        return np.zeros(len(given), dtype=bool)
    found = (wrong < LEAST_WRONG) | rare_classes(given, classes)[given]
    return found if weighed.panel is None else found | ~weighed.panel.judged("train")


def effects(
    context: AuditContext, decision: np.ndarray, labels: Labels
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The forecast changes of the mean validation loss, in nats, float64 `[rows]`; None without validation rows.

    The first is for removing each row, the second for giving it the suggested label (NaN for rows that are not flagged
    or have no suggestion).
    """
    path, data = context.run.path, run_data(context.run.path)
    if not data.count("validation"):
        return None, None
    removal = -read_score(path, data, "validation_harm")
    places = np.flatnonzero((decision != Decision.KEEP) & labels.contradicted)
    if not len(places) or context.config.training.trajectory is not None:
        return removal, None
    new = torch.from_numpy(np.ascontiguousarray(labels.suggested[places]))
    changes = label_change_effects(context, places, new)
    relabelling = np.full(len(decision), np.nan)
    if changes is not None:
        relabelling[places] = changes
    return removal, relabelling


def _noise_facts(context: AuditContext, weighed: Weighed, others: dict[str, JudgedRole]) -> dict[str, Any]:
    """The estimated shares of wrong labels among train rows, all judged rows and holdout rows, for the facts."""
    estimate, note = weighed.noise.estimate, weighed.noise.note
    facts: dict[str, Any] = {
        "estimated_noise": None if estimate is None else asdict(estimate),
        "estimated_noise_note": note,
        "contradicted_share": weighed.noise.contradicted,
    }
    of_roles: dict[str, NoiseEstimate | None] = dict.fromkeys(others)
    if estimate is not None and weighed.labels.wrong is not None:
        for role, found in others.items():
            wrong = np.asarray(next(each for each in found.signals if each.name == PANEL_WRONG.name).values)
            of_roles[role] = share_of_rows(wrong, estimate)
    if estimate is not None and weighed.targets is not None:
        data, seed = run_data(context.run.path), context.config.detection.seed
        for role in others:
            of_roles[role] = exchanged_targets_of(
                weighed.targets, role, role_labels(data, role).numpy(), seed
            )
    parts = [(len(weighed.ranking), estimate)]
    parts += [(len(found.judgement.decision), of_roles[role]) for role, found in others.items()]
    known = [(rows, each) for rows, each in parts if each is not None]
    whole = mean_of_shares(known) if len(known) == len(parts) else None
    holdout = of_roles.get("holdout")
    return facts | {
        "estimated_noise_file": None if whole is None else asdict(whole),
        "estimated_noise_holdout": None if holdout is None else asdict(holdout),
    }


def _judge_warnings(weighed: Weighed) -> list[str]:
    """Warnings if the panel is clearly better than the audited model, or if no judge explains enough."""
    found = []
    if not weighed.may_remove:
        found.append(
            "No judge predicts much of the labels: the best explains "
            f"{words.percent(max(0.0, weighed.explains or 0.0))} of the loss that is left without looking at the "
            "features. Nothing is removed without a person's word."
        )
    if weighed.judges is not None and weighed.judges.in_sample:
        found.append(
            "Your class probabilities (data.pred_probs) contradict far fewer labels than the other judges find wrong: "
            "your model has probably been trained on these rows. Its probabilities have no vote. Give probabilities by "
            "models that have not seen the row, for example by cross-validation."
        )
    model = None if weighed.judges is None else weighed.judges.model
    if weighed.judges is not None and model is not None and model.weight == 0:
        best = max(weighed.judges.judges, key=lambda judge: judge.explains)
        than, thing = (
            ("your own evidence", "your evidence")
            if best.name in OWN
            else ("a plain model", "the plain model")
        )
        found.append(
            f"Your model predicts unseen rows clearly worse than {than} does ({best.words}): it explains "
            f"{words.percent(max(0.0, model.explains))} of the loss without features, {thing} "
            f"{words.percent(best.explains)}. Its training has no say in the ranking."
        )
    return found


def _evidence_notes(weighed: Weighed) -> list[str]:
    """What is taken for granted about evidence of the user's own."""
    if weighed.panel is None or OWN_PROBABILITIES.name not in [judge.name for judge in weighed.panel.judges]:
        return []
    return [
        "Your class probabilities (data.pred_probs) are taken to be out of sample: that can't be checked."
    ]


def _rare_notes(data: EncodedData, decision: np.ndarray, given: np.ndarray) -> list[str]:
    if data.encoding.task != "classification":
        return []
    found = flags_of_rare(decision, given, data.encoding.outputs)
    note = rare_note(found, data.encoding.classes, len(given))
    return [] if note is None else [note]


def _explain(path: Path, labels: Labels, opinion: Opinion, nearest: np.ndarray) -> dict[Reason, np.ndarray]:
    """The reasons from labels and features, bool `[rows]` each; `nearest` has the distances to the nearest class."""
    temperature = 1.0 if labels.calibration is None else labels.calibration.temperature
    # Another label fits, but its probability is unknown.
    unknown = labels.contradicted & np.isnan(labels.probability)
    explained = np.where(unknown, 1.0, labels.probability)
    return {
        DUPLICATE_CONFLICT: conflicting_duplicates(path),
        OUTLIER: outliers(belongs_nowhere(nearest), explained),
        MISLABELLED: labels.contradicted,
        AMBIGUOUS: ambiguous(opinion.probability, opinion.runner_up, temperature),
    }


def _training_warnings(context: AuditContext, given: np.ndarray) -> list[str]:
    task = run_data(context.run.path).encoding.target
    warning = undertrained(context.run.facts("train")["curve"], task.constant_loss(given))
    found = [] if warning is None else [warning]
    return found + context.run.facts("attribute").get("misfits", [])


def _caps_note(left: int) -> str | None:
    if left <= 0:
        return None
    look, are = ("looks", "is") if left == 1 else ("look", "are")
    return f"{words.rows(left)} that {look} wrong or poisoned {are} left for review by the caps"


def flag_notes(harm: np.ndarray | StoredColumn | None) -> list[str]:
    notes = []
    if harm is None:
        notes.append(
            "Harm to the validation loss is not used as evidence: the validation labels are not declared clean."
        )
    return notes
