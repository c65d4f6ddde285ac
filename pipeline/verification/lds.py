"""The linear datamodeling score: do attributions rank what retrainings on parts of the rows measure?

Park et al. 2023 ("TRAK"), as used by Bae et al. 2024 (arXiv 2405.12186): rows are removed at random by *masks*, the
model is retrained on what is left, several times, and what was measured on a query is compared over masks with the sum
of the removed rows' scores. Everything here is arithmetic on arrays:

    truth      float `[masks, retrainings, queries]`, or its mean over retrainings `[masks, queries]`
    predicted  float `[masks, queries]`, or `[models, masks, queries]` of several models, whose figures are averaged
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations, islice

import numpy as np
from scipy.stats import rankdata

from pipeline.seeds import random_state

RESAMPLES = 200
SPLITS = 20
LEVELS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over masks and, where there are several, queries."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def random_mask(rows: int, share: float, purpose: str, *numbers: int) -> np.ndarray:
    """bool `[rows]`: True for a random share of them, at least one; the same for equal purposes and numbers."""
    found = np.zeros(rows, dtype=bool)
    found[random_state(purpose, *numbers).permutation(rows)[: max(1, round(share * rows))]] = True
    return found


def predicted_change(scores: np.ndarray, removed: np.ndarray, steps_kept: bool = False) -> np.ndarray:
    """What scores predict for the removal of sets: the rise of what was measured, float `[masks, queries]`.

    Args:
        scores: τ, float `[queries, rows]`, the rise on the removal of a row and of its steps.
        removed: bool `[masks, rows]`, never all rows.
        steps_kept: False: with fewer rows training takes fewer steps, and the scores add up. True: with as many
            steps as before the kept rows weigh N/(N−k), and the change is N/(N−k) · Σ (τ − mean τ).
    """
    if not steps_kept:
        return removed.astype(float) @ scores.T
    rows, gone = removed.shape[1], removed.sum(1)
    centred = scores - scores.mean(1, keepdims=True)
    return (removed.astype(float) @ centred.T) * (rows / (rows - gone))[:, None]


def lds_score(truth: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Estimate:
    """Spearman's correlation over masks, averaged over queries (and models).

    The correlation with a constant is 0.
    """
    return _estimate(
        lambda real, forecast: pearson(real, forecast).mean(), ranks(truth), ranks(predicted), seed
    )


def linear_correlation(truth: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Estimate:
    """Pearson's correlation over masks, averaged over queries (and models): for few masks, in line with `slope`."""
    return _estimate(lambda real, forecast: pearson(real, forecast).mean(), truth, predicted, seed)


def slope(truth: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Estimate:
    """Slope of the measured on the predicted change by least squares, one for all queries, each about its mean.

    Right in size is 1, and less means that predictions are too large.
    """
    return _estimate(_slope, truth, predicted, seed)


def ceiling(truth: np.ndarray, seed: int = 0) -> Estimate | None:
    """How well the best attribution could do, given the noise of the truth: √reliability, averaged over queries.

    The reliability of the mean over all retrainings `[masks, retrainings, queries]` follows from the rank correlation
    of two halves by the formula of Spearman and Brown. None with fewer than two retrainings.
    """
    retrainings = truth.shape[1]
    if retrainings < 2:
        return None
    halves = [
        (ranks(truth[:, list(a)].mean(1)), ranks(truth[:, list(b)].mean(1)))
        for a, b in splits(retrainings, seed)
    ]

    def of_some(masks: np.ndarray, queries: np.ndarray) -> float:
        parts = [pearson(a[masks][:, queries], b[masks][:, queries]) for a, b in halves]
        return float(np.sqrt(spearman_brown(np.mean(parts, 0), retrainings / (retrainings // 2))).mean())

    return _bootstrap(of_some, truth.shape[0], truth.shape[2], seed, RESAMPLES // 2)


def splits(retrainings: int, seed: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Disjoint halves of equal size: all of them where they are few, else some at random."""
    size = retrainings // 2
    if retrainings <= 6:
        found = [
            (first, second)
            for first in combinations(range(retrainings), size)
            for second in combinations(sorted(set(range(retrainings)) - set(first)), size)
            if first < second
        ]
        return list(islice(found, SPLITS))
    orders = [random_state("split halves", seed, place).permutation(retrainings) for place in range(SPLITS)]
    return [(tuple(order[:size]), tuple(order[size : 2 * size])) for order in orders]


def spearman_brown(correlation: np.ndarray, times: float) -> np.ndarray:
    """The reliability of `times` as many measurements; none where measurements don't agree."""
    positive = np.clip(correlation, 0.0, 1.0)
    return times * positive / (1 + (times - 1) * positive)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over masks of `[…, masks, queries]`, of the same shape. Taken once, of all masks: a bootstrap draws masks
    with the ranks that they have, which is far faster than ranking anew what was drawn."""
    found: np.ndarray = rankdata(values, axis=-2)
    return found


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation over masks of `[…, masks, queries]`: `[…, queries]`; 0 where one of the two is constant."""
    a, b = (each - each.mean(-2, keepdims=True) for each in (first, second))
    norm = np.sqrt(np.square(a).sum(-2) * np.square(b).sum(-2))
    return np.divide((a * b).sum(-2), norm, out=np.zeros(norm.shape), where=norm > 0)


def _slope(truth: np.ndarray, predicted: np.ndarray) -> float:
    a, b = (each - each.mean(-2, keepdims=True) for each in (truth, predicted))
    below = np.square(b).sum((-2, -1))
    return float(np.divide((a * b).sum((-2, -1)), below, out=np.zeros(below.shape), where=below > 0).mean())


def _estimate(
    figure: Callable[[np.ndarray, np.ndarray], float], truth: np.ndarray, predicted: np.ndarray, seed: int
) -> Estimate:
    def of_some(masks: np.ndarray, queries: np.ndarray) -> float:
        return float(figure(truth[masks][:, queries], predicted[..., masks, :][..., queries]))

    return _bootstrap(of_some, truth.shape[0], truth.shape[1], seed, RESAMPLES)


def _bootstrap(
    figure: Callable[[np.ndarray, np.ndarray], float], masks: int, queries: int, seed: int, resamples: int
) -> Estimate:
    """A figure of some masks and queries, with percentiles over drawing both anew."""
    state = random_state("lds bootstrap", seed)
    drawn = [
        figure(state.randint(0, masks, masks), state.randint(0, queries, queries)) for _ in range(resamples)
    ]
    low, high = np.percentile(drawn, LEVELS)
    return Estimate(figure(np.arange(masks), np.arange(queries)), float(low), float(high))
