"""The linear datamodeling score (LDS): do attributions rank the effects of removing sets of rows?

Park et al. 2023 ("TRAK"), as used by Bae et al. 2024 (arXiv 2405.12186). A *mask* removes random rows, and the model is
retrained several times on the other rows. Over the masks, the measurement on a query is compared with the sum of the
removed rows' scores. The functions work on arrays:

    truth      float `[masks, retrainings, queries]`, or its mean over retrainings `[masks, queries]`, or the truth of
               each model `[models, masks, queries]`
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
    """A figure with its 95 % bootstrap interval over masks and queries."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def random_mask(rows: int, share: float, purpose: str, *numbers: int) -> np.ndarray:
    """A mask, bool `[rows]`, True for a random share of the rows, at least one; `purpose` and `numbers` seed it."""
    found = np.zeros(rows, dtype=bool)
    found[random_state(purpose, *numbers).permutation(rows)[: max(1, round(share * rows))]] = True
    return found


def predicted_change(scores: np.ndarray, removed: np.ndarray, steps_kept: bool = False) -> np.ndarray:
    """The predicted rise of a measurement if sets of rows are removed.

    Args:
        scores: τ, float `[queries, rows]`, the rise if one row and its steps are removed.
        removed: bool `[masks, rows]`; no mask removes all rows.
        steps_kept: False: training without rows takes fewer steps, and the rise is Σ τ over the removed rows. True:
            training takes as many steps as before, the kept rows weigh N/(N−k), and the rise is
            N/(N−k) · Σ (τ − mean τ).

    Returns:
        float `[masks, queries]`.
    """
    if not steps_kept:
        return removed.astype(float) @ scores.T
    rows, gone = removed.shape[1], removed.sum(1)
    centred = scores - scores.mean(1, keepdims=True)
    return (removed.astype(float) @ centred.T) * (rows / (rows - gone))[:, None]


def lds_score(truth: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Estimate:
    """The LDS: Spearman's correlation over masks, averaged over queries and models.

    The correlation with a constant is 0.
    """
    return _estimate(
        lambda real, forecast: pearson(real, forecast).mean(), ranks(truth), ranks(predicted), seed
    )


def linear_correlation(truth: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Estimate:
    """Pearson's correlation over masks, averaged over queries and models; it suits few masks and goes with `slope`."""
    return _estimate(lambda real, forecast: pearson(real, forecast).mean(), truth, predicted, seed)


def slope(truth: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Estimate:
    """The least-squares slope of the measured on the predicted change, common to all queries.

    Both changes of a query are centred at their means over the masks. A slope of 1 means that predictions have the
    right size; a slope below 1 means that they are too large.
    """
    return _estimate(_slope, truth, predicted, seed)


def ceiling(truth: np.ndarray, seed: int = 0) -> Estimate | None:
    """The highest LDS that attributions could reach, given the noise of the truth: √reliability, averaged over queries.

    The reliability of the mean over all retrainings follows from the rank correlation of two halves of the retrainings
    by the Spearman–Brown formula.

    Args:
        truth: float `[masks, retrainings, queries]`.
        seed: of the halves and the bootstrap.

    Returns:
        None with fewer than two retrainings.
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
        return float(np.sqrt(_spearman_brown(np.mean(parts, 0), retrainings / (retrainings // 2))).mean())

    return _bootstrap(of_some, truth.shape[0], truth.shape[2], seed, RESAMPLES // 2)


def splits(retrainings: int, seed: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of disjoint halves of the retrainings: up to 6 retrainings all pairs (at most SPLITS), else random ones."""
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


def _spearman_brown(correlation: np.ndarray, times: float) -> np.ndarray:
    """The reliability of `times` as many measurements; 0 if single measurements have a negative correlation."""
    positive = np.clip(correlation, 0.0, 1.0)
    return times * positive / (1 + (times - 1) * positive)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks over the masks, `[…, masks, queries]` as the values.

    All masks are ranked once. A bootstrap draws masks with these ranks, which is far faster than ranking each draw.
    """
    found: np.ndarray = rankdata(values, axis=-2)
    return found


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The correlation over masks of two arrays `[…, masks, queries]`, `[…, queries]`; 0 if one of them is constant."""
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
        return float(figure(*(each[..., masks, :][..., queries] for each in (truth, predicted))))

    return _bootstrap(of_some, truth.shape[-2], truth.shape[-1], seed, RESAMPLES)


def _bootstrap(
    figure: Callable[[np.ndarray, np.ndarray], float], masks: int, queries: int, seed: int, resamples: int
) -> Estimate:
    """A figure with percentiles of its bootstrap over masks and queries.

    Args:
        figure: computes the figure from indices of masks and of queries.
        masks: how many masks there are.
        queries: how many queries there are.
        seed: of the bootstrap.
        resamples: how often masks and queries are drawn.
    """
    state = random_state("lds bootstrap", seed)
    drawn = [
        figure(state.randint(0, masks, masks), state.randint(0, queries, queries)) for _ in range(resamples)
    ]
    low, high = np.percentile(drawn, LEVELS)
    return Estimate(figure(np.arange(masks), np.arange(queries)), float(low), float(high))
