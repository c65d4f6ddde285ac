"""How many rows are flagged: the estimated number of wrong labels, or the number of contradicted ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.detection.judges.label_sets import Pairs
from pipeline.detection.noise.noise_estimate import NoiseEstimate

WRONG_TARGET = 5.0
DOUBTFUL_TARGET = 3.5
"""A numeric target with a larger out-of-sample residual, in robust standard deviations, is flagged in any case."""
RARE_TARGET = 0.1
"""Where the share of wrong targets is estimated, that holds if fewer of the other rows' targets are as far off."""


@dataclass(frozen=True)
class Counts:
    """How many rows are flagged.

    Attributes:
        likely_wrong: so many of the most suspicious rows are to be removed.
        review: up to so many of the most suspicious rows are to be removed or reviewed.
    """

    likely_wrong: int
    review: int


def count_contradictions(
    evidence: list[np.ndarray], harm: np.ndarray | None, other_is_probable: np.ndarray
) -> Counts:
    """Count rows that all the evidence contradicts, and the more certain ones of them.

    More certain are rows with positive harm to a clean validation set or, without one, rows for which another label has
    a probability above one half.

    Args:
        evidence: bool `[rows]` each, whether the evidence contradicts the label.
        harm: float64 `[rows]`; None without a clean validation set.
        other_is_probable: bool `[rows]`.
    """
    all_of = np.logical_and.reduce(evidence)
    surer = all_of & (other_is_probable if harm is None else harm > 0)
    return Counts(int(surer.sum()), int(all_of.sum()))


def count_classification(contradictions: Counts, noise: NoiseEstimate | None, rows: int) -> Counts:
    """Counts for classes: the estimated number of wrong labels, or else the number of more certain contradictions.

    All contradictions are reviewed, because they also find wrong labels to which the estimate is blind.
    """
    likely_wrong = contradictions.likely_wrong if noise is None else round(noise.value * rows)
    return Counts(likely_wrong, max(contradictions.review, contradictions.likely_wrong, likely_wrong))


def count_exchanged(deviation: np.ndarray, rarity: np.ndarray, noise: NoiseEstimate) -> Counts:
    """Counts for numeric targets of one noisy file, with a share that `estimate_exchanged_targets` gave.

    Beyond a deviation t there are n · P(z > t) rows, of which n · π · P(z' > t) are wrong (see that module). As many
    rows are likely wrong as make the surplus of wrong over right ones largest: the last of them is as probably wrong as
    right. Rows with a large deviation that hardly any target of another row has count in any case.

    Args:
        deviation: z, float64 `[rows]`.
        rarity: P(z' > z) for each row's own z, float64 `[rows]`.
        noise: π.
    """
    order = np.lexsort((rarity, -deviation))
    surplus = 2 * noise.value * len(order) * rarity[order] - np.arange(1, len(order) + 1)
    likely_wrong = int(surplus.argmax()) + 1 if surplus.max(initial=0.0) > 0 else 0
    rare = rarity < RARE_TARGET
    likely_wrong = max(likely_wrong, int((rare & (deviation > WRONG_TARGET)).sum()))
    review = max(round(noise.value * len(order)), int((rare & (deviation > DOUBTFUL_TARGET)).sum()))
    return Counts(likely_wrong, max(likely_wrong, review))


def count_regression(deviation: np.ndarray, noise: NoiseEstimate | None) -> Counts:
    """Counts for numeric targets: the low end of the estimate is likely wrong, and the estimate itself is reviewed.

    Residuals have no threshold as clear as that of classes, so that the estimate varies much with few validation rows.
    Rows with a deviation above DOUBTFUL_TARGET count in any case.

    Args:
        deviation: float64 `[rows]`, from `robust_deviation`.
        noise: the estimated share of wrong targets, or None.
    """
    low, value = (0.0, 0.0) if noise is None else (noise.low, noise.value)
    likely_wrong = max(round(low * len(deviation)), int((deviation > WRONG_TARGET).sum()))
    review = max(round(value * len(deviation)), int((deviation > DOUBTFUL_TARGET).sum()))
    return Counts(likely_wrong, max(likely_wrong, review))


def count_rows_of_pairs(
    pairs: Pairs, suspicion: np.ndarray, ids: np.ndarray, harm: np.ndarray | None, noise: NoiseEstimate | None
) -> Counts:
    """Counts for sets of labels: pairs are counted by the rules for classes, then the rows of the top pairs.

    Args:
        pairs: the evidence about every label of every row.
        suspicion: of the pairs, float64 `[rows, labels]`.
        ids: int64 `[rows]`; they order pairs of equal suspicion.
        harm: float64 `[rows]`; None without clean validation labels.
        noise: the estimated share of wrong answers, or None.
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
