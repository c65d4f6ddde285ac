"""Weighs the evidence about classes where a panel judges them."""

from __future__ import annotations

import numpy as np

from pipeline.detection.judges.class_judges import Judges
from pipeline.detection.judges.halves import Opinion
from pipeline.detection.noise.flag_counts import Counts
from pipeline.detection.noise.judge_noise import CONFUSION, UNCLEAR, UNTOLD, Noise
from pipeline.detection.noise.label_flips import right_label, wrong_label
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.wrong_share import LEAST_EXPLAINED, WrongShare, estimate_wrong_share, is_told
from pipeline.detection.rules.protection import LEAST_WRONG
from pipeline.detection.signals.collect import signals_of_judges, signals_of_training, stored
from pipeline.detection.signals.evidence import Judged, gather, opinion_of
from pipeline.detection.signals.repeats import repeated_signals
from pipeline.detection.signals.weights import shared_out, weighted, weighted_by_own
from pipeline.detection.sources.source_rates import right_label_by_source, telling_source
from pipeline.detection.sources.source_values import declared_sources
from pipeline.detection.suspicion import SignalValues, doubt_like_train, suspicion
from pipeline.detection.weighing.weighed import Labels, Weighed
from pipeline.runs.context import AuditContext
from pipeline.text import words


def weigh_by_panel(context: AuditContext, judges: Judges, given: np.ndarray) -> Weighed:
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
