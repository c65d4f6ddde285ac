"""Intervals for the difference between two arms, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import t as student

CONFIDENCE = 0.95
CONTROLS = ("cleaned - as_given", "cleaned - random_removal")
"""Both must be beaten for `improved`: fewer rows of the same classes can help or harm by themselves."""


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def difference_interval(differences: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """The mean difference, for new seeds and new holdout rows alike.

    differences: `[seeds, rows]`, at least 2 of each, paired by seed and row. Model: the difference of seed
    s on row i is μ + a_s + b_i + e_si (crossed random effects), so the variance of the mean of all is
    σ_a²/S + σ_b²/n + σ_e²/(S·n).

    The variance of the seeds' means estimates σ_a² + σ_e²/n, which gives the first and the last term with S
    − 1 degrees of freedom. σ_b², what the seeds share on each row, is estimated by the analysis of variance
    and has about n − 1. The half-widths of the two t intervals are added in squares (Zou & Donner 2008,
    "Construction of confidence limits about effect measures"): exact when one source of noise dominates,
    slightly wide between. Taking the raw variance of the rows' means instead of σ_b² would count σ_e²
    twice; a percentile bootstrap lacks the t factor 2.78 / 1.96 that five seeds need.

    The seeds' half-width is at least what σ_e² alone gives: the means of two or three seeds are counts of rows
    and tie by chance, which must not pass for certainty.
    """
    seeds, rows = differences.shape
    mean = float(differences.mean())
    of_seeds, of_rows = differences.mean(1), differences.mean(0)
    rest = differences - of_seeds[:, None] - of_rows + mean
    noise = np.square(rest).sum() / ((seeds - 1) * (rows - 1))
    shared = max(of_rows.var(ddof=1) - noise / seeds, 0.0)
    by_noise = t_quantile((seeds - 1) * (rows - 1), confidence) * np.sqrt(noise / (seeds * rows))
    by_seeds = max(by_noise, t_quantile(seeds - 1, confidence) * np.sqrt(of_seeds.var(ddof=1) / seeds))
    by_rows = t_quantile(rows - 1, confidence) * np.sqrt(shared / rows)
    half = float(np.hypot(by_seeds, by_rows))
    return Interval(mean, mean - half, mean + half)


def seed_interval(values: np.ndarray) -> Interval:
    """A t interval over seeds, `[seeds]`, at least 2: for a quantity on rows that stay the same."""
    mean = float(values.mean())
    half = float(t_quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    return float(student.ppf((1 + confidence) / 2, degrees))


def verdict(differences: Mapping[str, Mapping[str, Mapping[str, float]]], higher_is_better: bool) -> str:
    """`improved`, `worse` or `no evidence`, from `{"cleaned - as_given": {"metric": {low, high, …}, …}, …}`.

    `improved`: the intervals of the metric's difference to as given and to the random removal both lie
    wholly on the good side of 0. `worse`: that to as given lies wholly on the bad side.
    """
    sides = []
    for name in CONTROLS:
        interval = differences[name]["metric"]
        low, high = interval["low"], interval["high"]
        sides.append((low, high) if higher_is_better else (-high, -low))
    if all(low > 0 for low, _ in sides):
        return "improved"
    return "worse" if sides[0][1] < 0 else "no evidence"
