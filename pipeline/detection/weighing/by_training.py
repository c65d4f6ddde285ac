"""Weighs the evidence about classes without a panel, by the signals of the trainings."""

from __future__ import annotations

import numpy as np

from pipeline.detection.columns import StoredColumn
from pipeline.detection.judges.calibration import calibrate, suggestion_probability
from pipeline.detection.judges.halves import Opinion
from pipeline.detection.noise.flag_counts import Counts, count_classification, count_contradictions
from pipeline.detection.noise.judge_noise import judge_noise
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.signals.collect import signals_of_training
from pipeline.detection.signals.early_harm import EARLY_HARM
from pipeline.detection.signals.early_margin import EARLY_MARGIN
from pipeline.detection.signals.evidence import gather, opinion_of
from pipeline.detection.signals.neighbour_margin import NEIGHBOUR_MARGIN
from pipeline.detection.signals.repeats import repeated_signals
from pipeline.detection.signals.weights import weighted
from pipeline.detection.suspicion import SignalValues, suspicion
from pipeline.detection.weighing.weighed import Labels, Weighed, values_of
from pipeline.runs.context import AuditContext

PREFERENCES = (EARLY_MARGIN.name, NEIGHBOUR_MARGIN.name)
"""Signals that are negative if another label is preferred."""


def weigh_by_training(context: AuditContext, given: np.ndarray, window: int) -> Weighed:
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
