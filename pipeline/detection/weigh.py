"""Weighs the evidence about every train row: ranking, suggested labels, and how many labels are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.detection.columns import StoredColumn
from pipeline.detection.in_sample import looks_in_sample
from pipeline.detection.judges.calibration import Calibration, calibrate, suggestion_probability
from pipeline.detection.judges.class_judges import Judges, collect_judges
from pipeline.detection.judges.halves import Opinion
from pipeline.detection.judges.label_sets import collect_pairs, flipped
from pipeline.detection.judges.residuals import robust_deviation
from pipeline.detection.judges.target_judges import TargetJudges, collect_target_judges
from pipeline.detection.noise.flag_counts import (
    DOUBTFUL_TARGET,
    Counts,
    count_classification,
    count_contradictions,
    count_exchanged,
    count_regression,
    count_rows_of_pairs,
)
from pipeline.detection.noise.judge_noise import (
    CONFUSION,
    UNCLEAR,
    UNTOLD,
    Noise,
    judge_answers,
    judge_noise,
    judge_targets_alone,
)
from pipeline.detection.noise.label_flips import Flips, right_label, wrong_label
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.wrong_share import LEAST_EXPLAINED, WrongShare, estimate_wrong_share, is_told
from pipeline.detection.noise.wrong_targets import rarity_among_exchanged
from pipeline.detection.removal_strata import prediction_strata, write_strata
from pipeline.detection.rules.protection import LEAST_EXPLAINED as LEAST_KNOWN
from pipeline.detection.rules.protection import LEAST_WRONG
from pipeline.detection.signals.collect import signals_of_judges, signals_of_training, stored
from pipeline.detection.signals.early_harm import EARLY_HARM
from pipeline.detection.signals.early_margin import EARLY_MARGIN
from pipeline.detection.signals.evidence import Judged, gather, opinion_of
from pipeline.detection.signals.neighbour_margin import NEIGHBOUR_MARGIN
from pipeline.detection.signals.registry import Signal
from pipeline.detection.signals.repeats import repeated_signals
from pipeline.detection.signals.sets import pair_suspicion, signals_of_sets
from pipeline.detection.signals.weights import shared_out, weighted, weighted_by_own
from pipeline.detection.sources.source_rates import SourceRates, right_label_by_source, telling_source
from pipeline.detection.sources.source_values import declared_sources
from pipeline.detection.suspicion import SignalValues, doubt_like_train, suspicion
from pipeline.panel.opinions import Panel, read_panel
from pipeline.runs.context import AuditContext
from pipeline.text import words
from pipeline.workers.worker import run_data


@dataclass(frozen=True)
class Labels:
    """The conclusions about the given labels; arrays are `[rows]`.

    Attributes:
        given, suggested: encoded labels; for sets `[rows, labels]`.
        contradicted: bool, whether the suggested label fits better.
        probability: float64, that the suggested label is right; NaN if unknown.
        strata: int, within which caps hold.
        counts: how many rows are flagged.
        calibration: of the suggestions' probabilities; None if nothing was fitted.
        wrong: float64, the probability that the given label is wrong; None if unknown.
    """

    given: np.ndarray
    suggested: np.ndarray
    contradicted: np.ndarray
    probability: np.ndarray
    strata: np.ndarray
    counts: Counts
    calibration: Calibration | None = None
    wrong: np.ndarray | None = None


@dataclass(frozen=True)
class Weighed:
    """The evidence about the train rows, and the conclusions from it.

    Attributes:
        signals: of the audit's own training and of the judges.
        repeated: signals of further trainings.
        ranking: float64 `[rows]`, the suspicion.
        nearest: float32 `[rows]`, the distance to the nearest class.
        opinion: of the halves or the main run.
        noise: the estimated label noise.
        labels: the conclusions about the labels.
        judges: of classes; None without a panel and for other tasks.
        flips: the label flips; None without judges.
        rates: which sources flip labels more often; None if none do.
        targets: the judges of numeric targets; None for other tasks.
        panel: the panel, or None.
        explains: the share of the log loss that the best judge explains; None without judges.
        doubt: float64 `[rows]`, what the judges alone say against the label, on a scale that other roles share.
        told: whether wrong labels can be told from hard rows; if not, suggestions have no probability.
    """

    signals: list[SignalValues]
    repeated: list[SignalValues]
    ranking: np.ndarray
    nearest: np.ndarray
    opinion: Opinion
    noise: Noise
    labels: Labels
    judges: Judges | None = None
    flips: Flips | None = None
    rates: SourceRates | None = None
    targets: TargetJudges | None = None
    panel: Panel | None = None
    explains: float | None = None
    doubt: np.ndarray | None = None
    told: bool = True

    @property
    def may_remove(self) -> bool:
        """Whether the judges explain enough that rows may be removed without a person's decision."""
        return self.explains is None or self.explains >= LEAST_KNOWN

    @property
    def harm(self) -> np.ndarray | StoredColumn | None:
        return values_of(self.signals, EARLY_HARM)


def values_of(signals: Sequence[SignalValues], signal: Signal) -> np.ndarray | StoredColumn | None:
    """The values of a signal; None if the audit does not have it."""
    return next((each.values for each in signals if each.name == signal.name), None)


def weigh(context: AuditContext, given: np.ndarray, window: int) -> Weighed:
    """Weigh the evidence by the kind of target.

    Args:
        context: of the audit.
        given: encoded labels, `[train rows]`.
        window: epochs of the early window.
    """
    task = run_data(context.run.path).encoding.task
    if task == "regression":
        return _weigh_targets(context, given, window)
    judges = collect_judges(context, given, window)
    if judges is None:
        return _weigh_by_training(context, given, window)
    if looks_in_sample(judges, given, context.config.detection.seed):
        judges = judges.without_own_probabilities()
    return _weigh_classes(context, judges, given)


def _weigh_classes(context: AuditContext, judges: Judges, given: np.ndarray) -> Weighed:
    """Weigh classes with a panel; the probability that a label is wrong dominates the ranking."""
    path, seed = context.run.path, context.config.detection.seed
    opinion = opinion_of(context)
    seen = gather(context, opinion)
    of_training = signals_of_training(seen)
    opinions, weights = judges.opinions("train"), judges.weights()
    share = estimate_wrong_share(opinions, weights, given, seed)
    together = judges.together("train")
    columns = declared_sources(path)
    rates = telling_source(together, given, share.flips, [(each.name, each.codes) for each in columns])
    posterior = right_label(together, given, share.flips)
    if rates is not None:
        codes = next(each.codes for each in columns if each.name == rates.column)
        posterior = right_label_by_source(together, given, share.flips, codes, rates.factors)
    wrong = wrong_label(posterior, given)
    best = together.argmax(1).astype(opinion.best.dtype)
    suggested, probability = best_other(posterior, given)
    noise = _noise_of(share, judges, float((best != given).mean()))
    estimate, told = noise.estimate, noise.estimate is not None or judges.explains < LEAST_EXPLAINED
    of_training = weighted(of_training, estimate)
    repeated = weighted(repeated_signals(context), estimate)
    vote = judges.vote_of_training
    mine = signals_of_classes(judges, "train", given, together, wrong)
    shared = shared_out([*of_training, *repeated], vote)
    signals = [stored(path, signal) for signal in mine] + shared[: len(of_training)]
    repeated = shared[len(of_training) :]
    two = -np.partition(-together, 1, axis=1)[:, :2] if together.shape[1] > 1 else np.ones((len(given), 2))
    by_judges = Opinion(
        together[np.arange(len(given)), given].astype(np.float64), best, *two.T.astype(np.float64)
    )
    contradicted = (best != given) | (wrong > LEAST_WRONG)
    doubtful = contradicted & (wrong > LEAST_WRONG) if told else (best != given) & (two[:, 0] > 0.5)
    labels = Labels(
        given,
        suggested.astype(best.dtype),
        contradicted,
        np.where(contradicted & told, probability, np.nan),
        given,
        _count_classes(estimate, doubtful),
        wrong=wrong,
    )
    ranking = suspicion(signals + repeated)
    return Weighed(
        signals,
        repeated,
        ranking,
        seen.represented["nearest_distance"],
        by_judges,
        noise,
        labels,
        judges,
        share.flips,
        rates=rates,
        panel=judges.panel,
        explains=judges.explains,
        doubt=wrong if judges.own_share == 0 else doubt_like_train(mine, mine),
        told=told,
    )


def signals_of_classes(
    judges: Judges, role: str, given: np.ndarray, together: np.ndarray, wrong: np.ndarray
) -> list[SignalValues]:
    """The signals of the judges for the rows of a role.

    Args:
        judges: of the run.
        role: `train`, `validation` or `holdout`.
        given: the given labels, int64 `[rows]`.
        together: the pooled opinions, `[rows, classes]`.
        wrong: P(the given label is wrong), float64 `[rows]`.
    """
    share = judges.own_share
    confidence = together[np.arange(len(given)), given].astype(np.float64) if share > 0 else None
    judged = Judged(judges.panel, role, given, wrong=wrong, confidence=confidence)
    return weighted_by_own(list(signals_of_judges(judged)), share)


def best_other(posterior: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable right label other than the given one, int64 `[rows]`, and its probability, float64 `[rows]`."""
    others = posterior.copy()
    others[np.arange(len(given)), given] = -1
    return others.argmax(1), others.max(1).astype(np.float64)


def _noise_of(share: WrongShare, judges: Judges, contradicted: float) -> Noise:
    """The estimated label noise with notes; `contradicted` is the share of labels that the judges contradict."""
    if judges.explains < LEAST_EXPLAINED:
        return Noise(None, UNCLEAR, [], contradicted)
    if not is_told(share.estimate, contradicted):
        return Noise(None, UNTOLD.format(contradicted=words.percent(contradicted)), [], contradicted)
    return Noise(share.estimate, CONFUSION, share.pairs, contradicted)


def _count_classes(estimate: NoiseEstimate | None, doubtful: np.ndarray) -> Counts:
    """Flag the estimated number of wrong labels; without an estimate, the `doubtful` rows (bool) for review."""
    if estimate is None:
        return Counts(0, int(doubtful.sum()))
    number = round(estimate.value * len(doubtful))
    return Counts(number, number)


def _weigh_by_training(context: AuditContext, given: np.ndarray, window: int) -> Weighed:
    """Weigh classes without a panel, by the signals of the trainings."""
    opinion = opinion_of(context)
    seen = gather(context, opinion)
    signals = signals_of_training(seen)
    noise = judge_noise(context, opinion, given, window)
    signals = weighted(signals, noise.estimate)
    repeated = weighted(repeated_signals(context), noise.estimate)
    harm = values_of(signals, EARLY_HARM)
    counts = _count_rows(signals, opinion, given, harm, noise.estimate)
    labels = _judge_classes(context, opinion, given, counts, window)
    nearest = seen.represented["nearest_distance"]
    return Weighed(signals, repeated, suspicion(signals + repeated), nearest, opinion, noise, labels)


def _weigh_targets(context: AuditContext, given: np.ndarray, window: int) -> Weighed:
    """Weigh numeric targets."""
    opinion = opinion_of(context)
    seen = gather(context, opinion)
    of_training, nearest = signals_of_training(seen), seen.represented["nearest_distance"]
    judges = collect_target_judges(context, given, opinion.best)
    predicted = opinion.best if judges is None else judges.predicted("train")
    opinion = replace(opinion, best=predicted)
    seed, rarity = context.config.detection.seed, None
    if judges is None or context.config.data.validation_is_clean:
        noise = judge_noise(context, opinion, given, window)
    else:
        noise = judge_targets_alone(judges, seed)
        rarity = rarity_among_exchanged(judges.given, predicted, seed)
    labels = _judge_targets(context, opinion, given, noise.estimate, rarity)
    repeated = repeated_signals(context)
    if judges is None:
        signals = weighted(of_training, noise.estimate)
        ranking = suspicion(signals + weighted(repeated, noise.estimate))
        return Weighed(signals, repeated, ranking, nearest, opinion, noise, labels)
    deviation = judges.deviation("train")
    mine = signals_of_judges(Judged(judges.panel, "train", judges.given, deviation=deviation))
    shared = shared_out([*of_training, *repeated], judges.vote)
    signals = [stored(context.run.path, signal) for signal in mine] + shared[: len(of_training)]
    repeated = shared[len(of_training) :]
    return Weighed(
        signals,
        repeated,
        suspicion(signals + repeated),
        nearest,
        opinion,
        noise,
        labels,
        targets=judges,
        panel=judges.panel,
        explains=judges.explains,
        doubt=deviation,
    )


def weigh_sets(context: AuditContext, row_ids: np.ndarray) -> Weighed:
    """Weigh sets of labels: a row is as suspicious as its worst label, and the suggestion flips that label."""
    path, seen, panel = context.run.path, gather(context, None), read_panel(context.run.path)
    pairs = collect_pairs(context, seen.represented["neighbour_margin"], seen.early, seen.window)
    if panel is not None:
        pairs = replace(pairs, panel=_answers_of_panel(panel.mean("train"), pairs.given))
    suspicious = pair_suspicion(pairs)
    worst = suspicious.argmax(1)
    judges = None if panel is None else Judged(panel, "train", pairs.given)
    signals = signals_of_sets(seen, judges, pairs, worst)
    harm = values_of(signals, EARLY_HARM)
    noise = judge_answers(context, pairs, seen.window)
    judged = pairs.judged
    own, suggested = judged[np.arange(len(worst)), worst].astype(np.float64), flipped(pairs.given, worst)
    strata = pairs.predicted_sizes
    write_strata(path, strata)
    of_rows = None if harm is None else np.asarray(harm)
    counts = count_rows_of_pairs(pairs, suspicious, row_ids, of_rows, noise.estimate)
    opinion = Opinion(own, suggested, np.maximum(own, 1 - own), np.minimum(own, 1 - own))
    probability = np.where(own < 0.5, 1 - own, np.nan)
    labels = Labels(pairs.given, suggested, own < 0.5, probability, strata, counts)
    return Weighed(
        signals,
        [],
        suspicious.max(1),
        seen.represented["nearest_distance"],
        opinion,
        noise,
        labels,
        panel=panel,
        doubt=None if pairs.panel is None else 1 - pairs.panel.min(1).astype(np.float64),
    )


def _answers_of_panel(chances: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The panel's probability of each given answer, float32 `[rows, labels]`."""
    return np.where(given > 0, chances, 1 - chances).astype(np.float32)


PREFERENCES = (EARLY_MARGIN.name, NEIGHBOUR_MARGIN.name)
"""Signals that are negative if another label is preferred."""


def _count_rows(
    signals: list[SignalValues],
    opinion: Opinion,
    given: np.ndarray,
    harm: np.ndarray | StoredColumn | None,
    noise: NoiseEstimate | None,
) -> Counts:
    evidence = [opinion.best != given]
    evidence += [np.asarray(s.values) < 0 for s in signals if s.name in PREFERENCES]
    of_rows = None if harm is None else np.asarray(harm)
    contradictions = count_contradictions(evidence, of_rows, opinion.probability > 0.5)
    return count_classification(contradictions, noise, len(given))


def _judge_classes(
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


def _judge_targets(
    context: AuditContext,
    opinion: Opinion,
    given: np.ndarray,
    noise: NoiseEstimate | None,
    rarity: np.ndarray | None,
) -> Labels:
    deviation, strata = robust_deviation(given, opinion.best), prediction_strata(opinion.best)
    write_strata(context.run.path, strata)
    contradicted = deviation > DOUBTFUL_TARGET
    if noise is None or rarity is None:
        counts = count_regression(deviation, noise)
    else:
        counts = count_exchanged(deviation, rarity, noise)
        if counts.likely_wrong:
            contradicted |= deviation >= np.partition(deviation, -counts.likely_wrong)[-counts.likely_wrong]
    return Labels(given, opinion.best, contradicted, opinion.probability, strata, counts, None)
