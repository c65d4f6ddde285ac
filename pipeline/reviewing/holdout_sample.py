"""Draws the holdout rows that people are asked about, and estimates the share of wrong labels from their answers.

Rows are drawn with known, unequal probabilities. Every row has a size q_i, the sizes sum to 1, and a sample of n rows
contains row i with the probability π_i = min(1, n q_i). The sample is drawn by sequential Poisson sampling (Ohlsson
1998): every row has a random number u_i, and the n rows with the smallest u_i / q_i are taken. A larger sample contains
every smaller one, so that rounds of answers add up.

The difference estimator (Särndal, Swensson & Wretman 1992, §6.3) gives the share of wrong labels. It is the mean of the
model's probabilities p_i that a label is wrong, corrected by the answers y_i:

    share = 1/N Σ p_i + 1/N Σ_sample (y_i − p_i) / π_i

The estimate is unbiased for any p_i; good p_i make it precise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

from pipeline.seeds import random_state

UNIFORM = 0.3
"""This part of the sizes is shared out evenly among the rows, so that no size is near 0."""

CONFIDENCE = 0.95
FLOOR = 0.2
"""The relative weight of a row on which the arms agree; a row on which they differ most has weight 1."""


@dataclass(frozen=True)
class Share:
    """The estimated share of wrong labels with its 95 % interval; `answered` is how many answers it rests on."""

    value: float
    low: float
    high: float
    answered: int


def row_sizes(wrong: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """The sizes q of the rows; rows whose answers are most informative have the largest sizes.

    An answer is most informative for a label that is as likely right as wrong: for the share alone, the best sizes are
    proportional to √p(1 − p). It changes the comparison of the arms only on rows where the arms differ.

    Args:
        wrong: p, float `[rows]`, the probability that the label is wrong.
        disagreement: float `[rows]` in 0..1, how much the arms differ on the row.

    Returns:
        float64 `[rows]`, with the sum 1.
    """
    size = np.sqrt(wrong * (1 - wrong)) * (FLOOR + (1 - FLOOR) * disagreement)
    total, rows = size.sum(), len(wrong)
    of_rows = size / total if total > 0 else np.full(rows, 1 / rows)
    return UNIFORM / rows + (1 - UNIFORM) * of_rows


def draw_order(sizes: np.ndarray, seed: int) -> np.ndarray:
    """The places of the rows in the order of drawing, int64 `[rows]`; the first n of them are a sample of n rows."""
    numbers = random_state("holdout review", seed).uniform(size=len(sizes))
    return np.argsort(numbers / sizes, kind="stable")


def chances(sizes: np.ndarray, sample: int) -> np.ndarray:
    """The probability π of each row to be in a sample of `sample` rows, float64 `[rows]`.

    Rows with n q_i ≥ 1 are certainly in the sample; the remaining places are shared among the other rows.
    """
    found = np.zeros(len(sizes))
    sure = np.zeros(len(sizes), dtype=bool)
    while True:
        left = sample - int(sure.sum())
        rest = sizes[~sure].sum()
        found[~sure] = left * sizes[~sure] / rest if rest > 0 else 0.0
        found[sure] = 1.0
        above = ~sure & (found >= 1)
        if not above.any():
            return found
        sure |= above


def estimate_share(
    wrong: np.ndarray, sizes: np.ndarray, sampled: np.ndarray, answers: np.ndarray
) -> Share | None:
    """Estimate the share of wrong labels.

    An unsure answer counts as p in the estimate, as right in the lower bound, and as wrong in the upper bound. Rows
    that were asked about and have no answer are assumed to be missing at random.

    Args:
        wrong: p, float `[rows]`.
        sizes: q, float `[rows]`.
        sampled: the places of the rows with an answer, int64 `[answers]`.
        answers: float `[answers]`, 1 for a wrong label, 0 for a right one, NaN if the person is unsure.

    Returns:
        None with fewer than two answers.
    """
    if len(sampled) < 2:
        return None
    middle, low, high = (
        _one_estimate(wrong, sizes, sampled, np.where(np.isnan(answers), instead, answers))
        for instead in (wrong[sampled], 0.0, 1.0)
    )
    return Share(middle[1], low[0], max(high[2], middle[1]), len(sampled))


def _one_estimate(
    wrong: np.ndarray, sizes: np.ndarray, sampled: np.ndarray, answers: np.ndarray
) -> tuple[float, float, float]:
    """Low, value and high; the interval is that of draws with replacement, which is conservative."""
    rows, asked = len(wrong), len(sampled)
    chance = chances(sizes, asked)
    corrections = (answers - wrong[sampled]) / (rows * chance[sampled])
    value = float(np.clip(wrong.mean() + corrections.sum(), 0, 1))
    open_rows = chance[sampled] < 1
    number = int(open_rows.sum())
    if asked == rows or number < 2:
        return value, value, value
    spread = number * corrections[open_rows].var(ddof=1)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, number - 1) * np.sqrt(spread))
    # If no answer is "wrong", the upper bound is the share of wrong labels that the sample could have missed.
    missed = float(beta.ppf((1 + CONFIDENCE) / 2, answers.sum() + 1, rows * chance.min()))
    return max(0.0, value - reach), value, min(1.0, max(value + reach, missed if answers.sum() == 0 else 0.0))
