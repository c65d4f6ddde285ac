"""Judges validation and holdout rows of one noisy file by models that are fitted on train rows alone.

Nothing here changes a decision about a train row. A row of another role gets the suspicion of train rows with equal
doubt of the judges, and the decision that train rows of this suspicion got.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import Detection
from pipeline.detection.judges.label_sets import flipped
from pipeline.detection.noise.flag_counts import DOUBTFUL_TARGET
from pipeline.detection.noise.label_flips import right_label, wrong_label
from pipeline.detection.people.decided_rows import Applied, People, apply_people
from pipeline.detection.reasons import ambiguous, reasons
from pipeline.detection.removal_strata import prediction_strata
from pipeline.detection.rules.decide import within_caps
from pipeline.detection.rules.protection import LEAST_WRONG, rare_classes
from pipeline.detection.signals.collect import signals_of_judges
from pipeline.detection.signals.evidence import Judged
from pipeline.detection.sources.source_rates import right_label_by_source
from pipeline.detection.sources.source_values import declared_sources
from pipeline.detection.suspicion import SignalValues, doubt_like_train
from pipeline.detection.table import Judgement, conflicting_duplicates
from pipeline.detection.weighing.by_panel import best_other, signals_of_classes
from pipeline.detection.weighing.weighed import Weighed
from pipeline.runs.context import AuditContext
from pipeline.scoring.unseen_rows import predict_unseen
from pipeline.text.decisions import Decision
from pipeline.text.reasons import AMBIGUOUS, DUPLICATE_CONFLICT, MISLABELLED, REVIEWED
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

RULES = ("budget",)
"""The rules whose removals extend to other roles; the other rules give guarantees about train rows only."""


@dataclass(frozen=True)
class Cuts:
    """The lowest suspicion of train rows that the ranking removes, and that it flags at all; None if there are none."""

    remove: float | None
    review: float | None


@dataclass(frozen=True)
class RoleEvidence:
    """The evidence of the judges about the rows of a role; arrays are `[rows]`.

    Attributes:
        doubt: float64, high is suspicious, on the scale of `Weighed.doubt` of the train rows.
        suggested: encoded labels, or sets `[rows, labels]`.
        probability: float64, of the suggestion; NaN without one.
        contradicted: bool, whether the suggestion fits better than the label.
        removable: bool, whether the row may be removed without a decision by a person.
        strata: int, within which caps hold.
        is_ambiguous: bool, whether two labels are nearly as probable.
        signals: the signals of the judges.
    """

    doubt: np.ndarray
    suggested: np.ndarray
    probability: np.ndarray
    contradicted: np.ndarray
    removable: np.ndarray
    strata: np.ndarray
    is_ambiguous: np.ndarray
    signals: list[SignalValues]


@dataclass(frozen=True)
class JudgedRole:
    judgement: Judgement
    signals: list[SignalValues]
    applied: Applied


def _judge_role(
    context: AuditContext, role: str, weighed: Weighed, cuts: Cuts, people: People | None
) -> JudgedRole | None:
    """Judge the rows of `validation` or `holdout`; None without a panel."""
    path, config, data = context.run.path, context.config.detection, run_data(context.run.path)
    given = role_labels(data, role).numpy()
    doubt = weighed.doubt
    if doubt is None:
        return None
    if weighed.judges is not None:
        seen = _of_classes(path, weighed, role, given)
    elif weighed.targets is not None:
        seen = _of_targets(weighed, role, given)
    else:
        seen = _of_sets(weighed, role, given)
    suspicion = suspicion_like_train(seen.doubt, doubt, weighed.ranking)
    decision = decide_role(config, suspicion, seen, cuts)
    applied = apply_people(decision, people, seen.contradicted)
    evidence = {
        DUPLICATE_CONFLICT: conflicting_duplicates(path, role),
        MISLABELLED: seen.contradicted,
        AMBIGUOUS: seen.is_ambiguous,
        REVIEWED: applied.people,
    }
    judgement = Judgement(
        suspicion=suspicion,
        suggested=seen.suggested,
        suggested_probability=np.where(seen.contradicted, seen.probability, np.nan),
        contradicted=seen.contradicted,
        decision=applied.decision,
        reasons=reasons(applied.decision, evidence),
        decided_by=applied.decided_by,
        own_labels=applied.own_labels,
        predicted=predict_unseen(context, role),
    )
    return JudgedRole(judgement, seen.signals, applied)


def _of_classes(path: Path, weighed: Weighed, role: str, given: np.ndarray) -> RoleEvidence:
    judges, flips = weighed.judges, weighed.flips
    assert judges is not None
    assert flips is not None
    together = judges.together(role)
    posterior = right_label(together, given, flips)
    if weighed.rates is not None:
        codes = _codes_like_train(path, role, weighed.rates.column)
        posterior = right_label_by_source(together, given, flips, codes, weighed.rates.factors)
    wrong = wrong_label(posterior, given)
    suggested, probability = best_other(posterior, given)
    best = together.argmax(1)
    two = -np.partition(-together, 1, axis=1)[:, :2].astype(np.float64)
    strong = weighed.may_remove
    removable = (
        (wrong >= LEAST_WRONG) & ~rare_classes(weighed.labels.given, together.shape[1])[given] & strong
    )
    signals = signals_of_classes(judges, role, given, together, wrong)
    return RoleEvidence(
        wrong if judges.own_share == 0 else doubt_like_train(signals, weighed.signals),
        suggested,
        probability if weighed.told else np.full(len(given), np.nan),
        (best != given) | (wrong > LEAST_WRONG),
        removable & judges.panel.judged(role),
        given.astype(np.int64),
        ambiguous(two[:, 0], two[:, 1], 1.0),
        signals,
    )


def _codes_like_train(run_path: Path, role: str, column: str) -> np.ndarray:
    """The sources of a role's rows by the codes of the train rows, int64 `[rows]`; −1 for sources not in train."""
    of_train, of_role = (
        next(each for each in declared_sources(run_path, (of,)) if each.name == column)
        for of in ("train", role)
    )
    known = {value: code for code, value in enumerate(of_train.values)}
    return np.array([known.get(value, -1) for value in of_role.values], dtype=np.int64)[of_role.codes]


def _of_targets(weighed: Weighed, role: str, given: np.ndarray) -> RoleEvidence:
    judges = weighed.targets
    assert judges is not None
    predicted, deviation = judges.predicted(role), judges.deviation(role, given)
    nothing, rows = np.full(len(given), np.nan), len(given)
    signals = list(signals_of_judges(Judged(judges.panel, role, given, deviation=deviation)))
    return RoleEvidence(
        deviation,
        predicted,
        nothing,
        deviation > DOUBTFUL_TARGET,
        np.full(rows, weighed.may_remove),
        prediction_strata(predicted),
        np.zeros(rows, dtype=bool),
        signals,
    )


def _of_sets(weighed: Weighed, role: str, given: np.ndarray) -> RoleEvidence:
    panel = weighed.panel
    assert panel is not None
    chance = np.asarray(panel.mean(role), dtype=np.float64)
    own = np.where(given > 0, chance, 1 - chance)
    worst = own.argmin(1)
    least = own[np.arange(len(given)), worst]
    return RoleEvidence(
        1 - least,
        flipped(given, worst),
        1 - least,
        least < LEAST_WRONG,
        np.full(len(given), weighed.may_remove),
        (chance > 0.5).sum(1).astype(np.int64),
        np.zeros(len(given), dtype=bool),
        list(signals_of_judges(Judged(panel, role, given, wrong=1 - least))),
    )


def cuts_of(suspicion: np.ndarray, decision: np.ndarray, by_ranking: np.ndarray) -> Cuts:
    """The cuts of the train rows' decisions.

    Args:
        suspicion: float64 `[train rows]`.
        decision: uint8 `[train rows]`.
        by_ranking: bool `[train rows]`, rows decided by the ranking: not by a person, and without a reason that decides
            by itself.
    """
    removed = suspicion[by_ranking & np.isin(decision, (Decision.REMOVE, Decision.RELABEL))]
    flagged = suspicion[by_ranking & (decision != Decision.KEEP)]
    return Cuts(
        float(removed.min()) if len(removed) else None, float(flagged.min()) if len(flagged) else None
    )


def suspicion_like_train(doubt: np.ndarray, of_train: np.ndarray, suspicion: np.ndarray) -> np.ndarray:
    """The suspicion that train rows of the same rank have.

    Args:
        doubt: of the rows of the role, float64 `[rows]`.
        of_train: the doubt of the train rows, float64 `[train rows]`.
        suspicion: of the train rows, float64 `[train rows]`.

    Returns:
        float64 `[rows]`.
    """
    by_doubt, by_suspicion = np.sort(of_train), np.sort(suspicion)
    low, high = (np.searchsorted(by_doubt, doubt, side=side) for side in ("left", "right"))
    rank = (low + high) / 2 / len(by_doubt)
    return np.interp(rank, (np.arange(len(by_suspicion)) + 0.5) / len(by_suspicion), by_suspicion)


def decide_role(config: Detection, suspicion: np.ndarray, seen: RoleEvidence, cuts: Cuts) -> np.ndarray:
    """The decisions for a role, uint8 `[rows]`: those of train rows of the same suspicion, within the same caps."""
    decision = np.full(len(suspicion), Decision.KEEP, dtype=np.uint8)
    if cuts.review is not None:
        decision[suspicion >= cuts.review] = Decision.REVIEW
    if cuts.remove is None or config.rule not in RULES:
        return decision
    order = np.argsort(-suspicion, kind="stable")
    candidates = order[(suspicion >= cuts.remove)[order] & seen.removable[order]]
    changed = within_caps(config, candidates, seen.strata)
    decision[changed] = Decision.REMOVE
    if config.relabel_above is not None:
        sure = seen.contradicted[changed] & (seen.probability[changed] >= config.relabel_above)
        decision[changed[sure]] = Decision.RELABEL
    return decision


def judge_other_roles(
    context: AuditContext,
    roles: list[str],
    weighed: Weighed,
    decision: np.ndarray,
    by_ranking: np.ndarray,
    people: dict[str, People],
) -> dict[str, JudgedRole]:
    """Judge every role other than train; `decision` and `by_ranking` are those of the train rows (`cuts_of`)."""
    cuts = cuts_of(weighed.ranking, decision, by_ranking)
    found = {
        role: _judge_role(context, role, weighed, cuts, people.get(role)) for role in roles if role != "train"
    }
    return {role: judged for role, judged in found.items() if judged is not None}
