"""Which holdout rows a person is asked about, and what their answers say of all of them.

Rows are drawn with unequal chances, known ones: every row has a size q_i, the sizes add up to 1, and a sample of n rows
holds row i with the chance π_i = min(1, n q_i). They are drawn by sequential Poisson sampling (Ohlsson 1998): every row
has a random number u_i of its own, and the n rows with the least u_i / q_i are taken, so that a larger sample holds the
smaller one and rounds of answers add up.

The share of wrong labels is estimated by the difference estimator (Särndal, Swensson & Wretman 1992, §6.3): the mean of
the model's chances p_i that a label is wrong, put right by the answers y_i:

    share = 1/N Σ p_i + 1/N Σ_sample (y_i − p_i) / π_i

It is unbiased whatever the p_i are; good ones make it precise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, t

from pipeline.seeds import random_state

UNIFORM = 0.3
"""This part of the chances is the same for all rows, so that no row's is near 0."""

CONFIDENCE = 0.95
FLOOR = 0.2
"""What a row counts on which no two arms differ, beside one on which all do."""


@dataclass(frozen=True)
class Share:
    """The estimated share of wrong labels among all rows, with its 95 % interval; answered: rows it rests on."""

    value: float
    low: float
    high: float
    answered: int


def row_sizes(wrong: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """q, float64 `[rows]`, adding up to 1: the rows whose answers decide the most have the largest.

    wrong: float `[rows]`, the chance that the label is wrong; disagreement: float `[rows]` in 0..1, by how much the
    arms differ on the row. An answer tells most about a label that may as well be right as wrong (the best sizes for
    the share alone are proportional to √p(1 − p)), and moves the comparison of the arms only where they differ.
    """
    size = np.sqrt(wrong * (1 - wrong)) * (FLOOR + (1 - FLOOR) * disagreement)
    total, rows = size.sum(), len(wrong)
    of_rows = size / total if total > 0 else np.full(rows, 1 / rows)
    return UNIFORM / rows + (1 - UNIFORM) * of_rows


def draw_order(sizes: np.ndarray, seed: int) -> np.ndarray:
    """Places in the order in which they are asked about, int64: of any length, its head is a sample."""
    numbers = random_state("holdout review", seed).uniform(size=len(sizes))
    return np.argsort(numbers / sizes, kind="stable")


def chances(sizes: np.ndarray, sample: int) -> np.ndarray:
    """π, float64 `[rows]`: that a row is in a sample of so many. Rows above 1 are taken for sure, and the others share
    what is left."""
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
    """wrong: p, float `[rows]`; sizes: q `[rows]`; sampled: places that have an answer, the only ones that count;
    answers: float `[sampled]`, 1 where the label is wrong, 0 where it is right, NaN where the person is unsure.

    An unsure answer is taken as the model's chance in the estimate, as right in the lower and as wrong in the upper
    bound. Rows that were asked about and left open are taken to be open by chance. None without two answers.
    """
    if len(sampled) < 2:
        return None
    middle, low, high = (
        one_estimate(wrong, sizes, sampled, np.where(np.isnan(answers), instead, answers))
        for instead in (wrong[sampled], 0.0, 1.0)
    )
    return Share(middle[1], low[0], max(high[2], middle[1]), len(sampled))


def one_estimate(
    wrong: np.ndarray, sizes: np.ndarray, sampled: np.ndarray, answers: np.ndarray
) -> tuple[float, float, float]:
    """Low, value, high. The interval is that of draws with replacement, which is no narrower than it has to be."""
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
    # Wrong labels may hide where the chances are least: as many may be there as the answers could have missed.
    missed = float(beta.ppf((1 + CONFIDENCE) / 2, answers.sum() + 1, rows * chance.min()))
    return max(0.0, value - reach), value, min(1.0, max(value + reach, missed if answers.sum() == 0 else 0.0))
