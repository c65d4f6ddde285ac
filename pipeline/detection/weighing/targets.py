"""Weighs the evidence about numeric targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.detection.judges.halves import Opinion
from pipeline.detection.judges.residuals import robust_deviation
from pipeline.detection.judges.target_judges import TargetJudges, collect_target_judges
from pipeline.detection.noise.flag_counts import DOUBTFUL_TARGET, count_exchanged, count_regression
from pipeline.detection.noise.judge_noise import judge_noise, judge_targets_alone
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.wrong_targets import rarity_among_exchanged
from pipeline.detection.removal_strata import prediction_strata, write_strata
from pipeline.detection.signals.collect import signals_of_judges, signals_of_training, stored
from pipeline.detection.signals.evidence import Judged, gather, opinion_of
from pipeline.detection.signals.repeats import repeated_signals
from pipeline.detection.signals.weights import shared_out, weighted
from pipeline.detection.suspicion import suspicion
from pipeline.detection.weighing.weighed import Labels, Weighed
from pipeline.runs.context import AuditContext


def weigh_targets(context: AuditContext, given: np.ndarray, window: int) -> Weighed:
    """Weigh numeric targets."""
    opinion = opinion_of(context)
    seen = gather(context, opinion)
    of_training, nearest = signals_of_training(seen), seen.represented["nearest_distance"]
    judges = collect_target_judges(context, given, opinion.best)
    predicted = opinion.best if judges is None else judges.predicted("train")
    opinion = replace(opinion, best=predicted)
    alone = None if context.config.data.validation_is_clean else judges
    if alone is None:
        noise = judge_noise(context, opinion, given, window)
    else:
        noise = judge_targets_alone(alone, context.config.detection.seed)
    labels = _judge_targets(context, opinion, given, noise.estimate, alone)
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


def _judge_targets(
    context: AuditContext,
    opinion: Opinion,
    given: np.ndarray,
    noise: NoiseEstimate | None,
    alone: TargetJudges | None,
) -> Labels:
    """Counts, suggestions and strata; alone: the judges, if they made the estimate without a clean row."""
    deviation, strata = robust_deviation(given, opinion.best), prediction_strata(opinion.best)
    write_strata(context.run.path, strata)
    contradicted = deviation > DOUBTFUL_TARGET
    if noise is None or alone is None:
        counts = count_regression(deviation, noise)
    else:
        rarity = rarity_among_exchanged(alone.given, opinion.best, context.config.detection.seed)
        counts = count_exchanged(deviation, rarity, noise)
        if counts.likely_wrong:
            contradicted |= deviation >= np.partition(deviation, -counts.likely_wrong)[-counts.likely_wrong]
    return Labels(given, opinion.best, contradicted, opinion.probability, strata, counts, None)
