"""The evidence about every train row, and what it says of the labels: ranking, suggestions, how many are wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.detection.columns import Column
from pipeline.detection.counts import (
    DOUBTFUL_TARGET,
    Counts,
    NoiseEstimate,
    count_classification,
    count_contradictions,
    count_regression,
    robust_deviation,
)
from pipeline.detection.judges.calibration import Calibration, calibrate, suggestion_probability
from pipeline.detection.judges.class_judges import Judges, collect_judges
from pipeline.detection.judges.halves import Opinion
from pipeline.detection.judges.label_sets import (
    collect_pairs,
    count_rows_of_pairs,
    flipped,
    pair_suspicion,
    row_signals,
)
from pipeline.detection.judges.target_judges import TargetJudges, collect_target_judges
from pipeline.detection.noise.judge_noise import CONFUSION, UNCLEAR, UNTOLD, Noise, judge_answers, judge_noise
from pipeline.detection.noise.label_flips import Flips, right_label, wrong_label
from pipeline.detection.noise.wrong_share import LEAST_EXPLAINED, WrongShare, estimate_wrong_share, is_told
from pipeline.detection.removal_strata import prediction_strata, write_strata
from pipeline.detection.representation.represent import represent
from pipeline.detection.rules.protection import LEAST_EXPLAINED as LEAST_KNOWN
from pipeline.detection.rules.protection import LEAST_WRONG
from pipeline.detection.signals.collect import collect_signals, harm_early, opinion_of, others, stored
from pipeline.detection.signals.early_harm import early_harm, with_harm_weight
from pipeline.detection.signals.panel_signals import (
    judge_signals,
    panel_residual,
    panel_wrong,
    shared_out,
)
from pipeline.detection.signals.repeats import repeated_signals
from pipeline.detection.sources.source_rates import SourceRates, right_label_by_source, telling_source
from pipeline.detection.sources.source_values import declared_sources
from pipeline.detection.suspicion import Signal, suspicion
from pipeline.panel.opinions import Panel, read_panel
from pipeline.runs.context import AuditContext
from pipeline.text import words
from pipeline.workers.worker import run_data


@dataclass(frozen=True)
class Labels:
    """What is thought of the given labels, all `[rows]` but the last two.

    given, suggested: encoded, sets of labels `[rows, labels]`; contradicted: bool, the suggested label fits better;
    probability: float64, that it is right, NaN without one; wrong: float64, that the given label is wrong, None where
    that is not known; strata: int; counts: how many rows to flag; calibration: None where nothing was fitted.
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
    """The evidence, and what it says of the labels.

    ranking: float64 `[rows]`, the suspicion; nearest: float32 `[rows]`, distance to the nearest class; judges: who was
    asked out of sample (classes), flips: how right labels become given ones, rates: which sources flip more of them;
    explains: share of the loss without looking at the features that the best of them explains, None where nobody was
    asked; doubt: float64 `[rows]`, what the judges alone say against the label, on a scale that rows of other roles
    have as well; told: wrong labels can be told from hard rows, without which suggestions have no probability.
    """

    signals: list[Signal]
    repeated: list[Signal]
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
        """Whether the judges know enough for a row to be removed without a person's word."""
        return self.explains is None or self.explains >= LEAST_KNOWN

    @property
    def harm(self) -> np.ndarray | Column | None:
        return next((signal.values for signal in self.signals if signal.name == "early_harm"), None)


def weigh(context: AuditContext, given: np.ndarray, early: int, window: int) -> Weighed:
    """What every kind of target takes: the evidence and what follows from it."""
    task = run_data(context.run.path).encoding.task
    if task == "regression":
        return weigh_targets(context, given, early, window)
    judges = collect_judges(context, given, window)
    if judges is None:
        return weigh_by_training(context, given, early, window)
    return weigh_classes(context, judges, given, early, window)


def weigh_classes(
    context: AuditContext, judges: Judges, given: np.ndarray, early: int, window: int
) -> Weighed:
    """Classes, judged by the panel and by the training: the one ranking is led by how probable a label is wrong."""
    path, seed = context.run.path, context.config.detection.seed
    opinion = opinion_of(context)
    of_training, nearest = collect_signals(context, opinion, early, window)
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
    noise = noise_of(share, judges, float((best != given).mean()))
    estimate, told = noise.estimate, noise.estimate is not None or judges.explains < LEAST_EXPLAINED
    of_training = with_harm_weight(of_training, estimate)
    repeated = with_harm_weight(repeated_signals(context), estimate)
    vote = judges.vote_of_training
    mine = [panel_wrong(wrong), *judge_signals(judges.panel, "train", given)]
    shared = shared_out([*of_training, *repeated], vote)
    signals = [stored(path, signal) for signal in mine] + shared[: len(of_training)]
    repeated = shared[len(of_training) :]
    two = -np.partition(-together, 1, axis=1)[:, :2] if together.shape[1] > 1 else np.ones((len(given), 2))
    seen = Opinion(together[np.arange(len(given)), given].astype(np.float64), best, *two.T.astype(np.float64))
    contradicted = (best != given) | (wrong > LEAST_WRONG)
    doubtful = contradicted & (wrong > LEAST_WRONG) if told else (best != given) & (two[:, 0] > 0.5)
    labels = Labels(
        given,
        suggested.astype(best.dtype),
        contradicted,
        np.where(contradicted & told, probability, np.nan),
        given,
        count_classes(estimate, doubtful),
        wrong=wrong,
    )
    ranking = suspicion(signals + repeated)
    return Weighed(
        signals,
        repeated,
        ranking,
        nearest,
        seen,
        noise,
        labels,
        judges,
        share.flips,
        rates=rates,
        panel=judges.panel,
        explains=judges.explains,
        doubt=wrong,
        told=told,
    )


def best_other(posterior: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable right label but the given one, int64 `[rows]`, and its probability, float64."""
    others = posterior.copy()
    others[np.arange(len(given)), given] = -1
    return others.argmax(1), others.max(1).astype(np.float64)


def noise_of(share: WrongShare, judges: Judges, contradicted: float) -> Noise:
    """contradicted: the share of labels that the judges together contradict."""
    if judges.explains < LEAST_EXPLAINED:
        return Noise(None, UNCLEAR, [], contradicted)
    if not is_told(share.estimate, contradicted):
        return Noise(None, UNTOLD.format(contradicted=words.percent(contradicted)), [], contradicted)
    return Noise(share.estimate, CONFUSION, share.pairs, contradicted)


def count_classes(estimate: NoiseEstimate | None, doubtful: np.ndarray) -> Counts:
    """As many rows as are estimated to be wrong; without an estimate the doubtful ones, bool `[rows]`, for review."""
    if estimate is None:
        return Counts(0, int(doubtful.sum()))
    number = round(estimate.value * len(doubtful))
    return Counts(number, number)


def weigh_by_training(context: AuditContext, given: np.ndarray, early: int, window: int) -> Weighed:
    """Classes without a panel: by what the trainings say."""
    opinion = opinion_of(context)
    signals, nearest = collect_signals(context, opinion, early, window)
    noise = judge_noise(context, opinion, given, window)
    signals = with_harm_weight(signals, noise.estimate)
    repeated = with_harm_weight(repeated_signals(context), noise.estimate)
    harm = next((signal.values for signal in signals if signal.name == "early_harm"), None)
    counts = count_rows(signals, opinion, given, harm, noise.estimate)
    labels = judge_classes(context, opinion, given, counts, window)
    return Weighed(signals, repeated, suspicion(signals + repeated), nearest, opinion, noise, labels)


def weigh_targets(context: AuditContext, given: np.ndarray, early: int, window: int) -> Weighed:
    """Numeric targets."""
    opinion = opinion_of(context)
    of_training, nearest = collect_signals(context, opinion, early, window)
    judges = collect_target_judges(context, given, opinion.best)
    predicted = opinion.best if judges is None else judges.predicted("train")
    opinion = replace(opinion, best=predicted)
    noise = judge_noise(context, opinion, given, window)
    labels = judge_targets(context, opinion, given, noise.estimate)
    repeated = repeated_signals(context)
    if judges is None:
        signals = with_harm_weight(of_training, noise.estimate)
        ranking = suspicion(signals + with_harm_weight(repeated, noise.estimate))
        return Weighed(signals, repeated, ranking, nearest, opinion, noise, labels)
    deviation = judges.deviation("train")
    mine = [panel_residual(deviation), *judges.signals("train")]
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


def weigh_sets(context: AuditContext, row_ids: np.ndarray, early: int, window: int) -> Weighed:
    """Sets of labels: label by label, and a row by its most suspicious one, which the suggestion turns round."""
    path, seen, panel = context.run.path, represent(context), read_panel(context.run.path)
    pairs = collect_pairs(context, seen["neighbour_margin"], early, window)
    if panel is not None:
        pairs = replace(pairs, panel=answers_of_panel(panel.mean("train"), pairs.given))
    suspicious = pair_suspicion(pairs)
    worst = suspicious.argmax(1)
    harm = harm_early(context)
    of_rows = [] if harm is None else [replace(early_harm(harm), counts=False)]
    of_panel = [] if panel is None else list(judge_signals(panel, "train", pairs.given))
    found = [*row_signals(pairs, worst), *of_rows, *of_panel, *others(context, seen)]
    signals = [stored(path, each) for each in found]
    noise = judge_answers(context, pairs, window)
    judged = pairs.judged
    own, suggested = judged[np.arange(len(worst)), worst].astype(np.float64), flipped(pairs.given, worst)
    strata = pairs.predicted_sizes
    write_strata(path, strata)
    counts = count_rows_of_pairs(pairs, suspicious, row_ids, harm, noise.estimate)
    opinion = Opinion(own, suggested, np.maximum(own, 1 - own), np.minimum(own, 1 - own))
    probability = np.where(own < 0.5, 1 - own, np.nan)
    labels = Labels(pairs.given, suggested, own < 0.5, probability, strata, counts)
    return Weighed(
        signals,
        [],
        suspicious.max(1),
        seen["nearest_distance"],
        opinion,
        noise,
        labels,
        panel=panel,
        doubt=None if pairs.panel is None else 1 - pairs.panel.min(1).astype(np.float64),
    )


def answers_of_panel(chances: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The panel's probability of each given answer, float32 `[rows, labels]`."""
    return np.where(given > 0, chances, 1 - chances).astype(np.float32)


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
