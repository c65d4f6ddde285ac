"""How many rows to flag: as many as are estimated to be wrong, or as the evidence contradicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.detection.judges.label_sets import Pairs
from pipeline.detection.noise.noise_estimate import NoiseEstimate

WRONG_TARGET = 5.0
DOUBTFUL_TARGET = 3.5
"""Robust standard deviations of the out-of-sample residual (regression)."""


@dataclass(frozen=True)
class Counts:
    """The most suspicious `likely_wrong` rows are to be removed, up to `review` to be looked at."""

    likely_wrong: int
    review: int


def count_contradictions(
    evidence: list[np.ndarray], harm: np.ndarray | None, other_is_probable: np.ndarray
) -> Counts:
    """Rows that all the evidence contradicts (bool `[rows]` each), and of these the surer ones.

    Surer are those with positive harm to a clean validation set; without one, those for which another label has
    more than half of the probability.
    """
    all_of = np.logical_and.reduce(evidence)
    surer = all_of & (other_is_probable if harm is None else harm > 0)
    return Counts(int(surer.sum()), int(all_of.sum()))


def count_classification(contradictions: Counts, noise: NoiseEstimate | None, rows: int) -> Counts:
    """As many are likely wrong as estimated, or as the surer contradictions where there is no estimate.

    To be looked at are all contradictions too: they also find wrong labels that the estimate is blind to.
    """
    likely_wrong = contradictions.likely_wrong if noise is None else round(noise.value * rows)
    return Counts(likely_wrong, max(contradictions.review, contradictions.likely_wrong, likely_wrong))


def count_regression(deviation: np.ndarray, noise: NoiseEstimate | None) -> Counts:
    """Likely wrong are as many as the estimate's interval begins with, to be looked at as many as estimated.

    Residuals have no such clear threshold as labels, so few validation rows make the estimate vary much. Rows that are
    far out on a robust scale count in any case. deviation: float64 `[rows]`, from `robust_deviation`.
    """
    low, value = (0.0, 0.0) if noise is None else (noise.low, noise.value)
    likely_wrong = max(round(low * len(deviation)), int((deviation > WRONG_TARGET).sum()))
    review = max(round(value * len(deviation)), int((deviation > DOUBTFUL_TARGET).sum()))
    return Counts(likely_wrong, max(likely_wrong, review))


def count_rows_of_pairs(
    pairs: Pairs, suspicion: np.ndarray, ids: np.ndarray, harm: np.ndarray | None, noise: NoiseEstimate | None
) -> Counts:
    """Pairs are counted by the rules for classes; of as many most suspicious pairs, the rows.

    suspicion: `[rows, labels]`; ids, harm: `[rows]`, harm only with clean validation labels.
    """
    evidence = [pairs.contradicted, pairs.margin < 0, pairs.neighbours < 0]
    of_pairs = None if harm is None else np.broadcast_to(harm[:, None], pairs.given.shape)
    counts = count_classification(
        count_contradictions(evidence, of_pairs, pairs.contradicted), noise, pairs.given.size
    )
    labels = pairs.given.shape[1]
    order = np.lexsort((np.repeat(ids, labels), -suspicion.reshape(-1))) // labels
    rows = [len(np.unique(order[:number])) for number in (counts.likely_wrong, counts.review)]
    return Counts(*rows)
