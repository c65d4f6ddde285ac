"""Weighs the evidence about sets of labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.detection.judges.halves import Opinion
from pipeline.detection.judges.label_sets import collect_pairs, flipped
from pipeline.detection.noise.flag_counts import count_rows_of_pairs
from pipeline.detection.noise.judge_noise import judge_answers
from pipeline.detection.removal_strata import write_strata
from pipeline.detection.signals.early_harm import EARLY_HARM
from pipeline.detection.signals.evidence import Judged, gather
from pipeline.detection.signals.sets import pair_suspicion, signals_of_sets
from pipeline.detection.weighing.weighed import Labels, Weighed, values_of
from pipeline.panel.opinions import read_panel
from pipeline.runs.context import AuditContext


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
