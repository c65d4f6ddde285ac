"""Intervals for the difference between two arms, and how large a gain they would show."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

CONFIDENCE = 0.95
BOTH = 1 - (1 - CONFIDENCE) / 2
"""Confidence of each of two intervals, of the metric and of the loss, that hold together in 95 % (Bonferroni)."""
SEEN = 0.8
JOINT_QUANTILE = 1.1684
"""Both of two differences that share an arm (correlation 1/2) lie above −this many standard errors in 80 %."""
DISAGREEMENT = 0.1


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class SeedNoise:
    """The variance of an arm's mean over rows from seed to seed, once the seeds' common part is taken out."""

    variance: float
    degrees: int


def seed_noise(means: np.ndarray) -> SeedNoise:
    """The noise of retraining, pooled over all arms.

    means: `[arms, seeds]`, each the mean over the rows. Model: arm a with seed s has μ_a + c_s + e_as, where c_s is
    what the arms share, since equal seeds begin with equal weights. The residual sum of squares of the two-way layout
    over (A − 1)(S − 1) estimates σ², and the difference of two arms' means over the seeds has the variance 2σ²/S.
    With 5 arms and 2 seeds the t quantile has 4 degrees of freedom (2.8); two seeds alone have one (12.7).
    """
    arms, seeds = means.shape
    rest = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    degrees = (arms - 1) * (seeds - 1)
    return SeedNoise(float(np.square(rest).sum() / degrees), degrees)


def difference_interval(
    differences: np.ndarray,
    confidence: float = CONFIDENCE,
    noise_of_seeds: SeedNoise | None = None,
    choices: int = 1,
) -> Interval:
    """The mean difference, for new seeds and new holdout rows alike.

    differences: `[seeds, rows]`, at least 2 of each, paired by seed and row. Model: the difference of seed
    s on row i is μ + a_s + b_i + e_si (crossed random effects), so the variance of the mean of all is
    σ_a²/S + σ_b²/n + σ_e²/(S·n).

    The variance of the seeds' means estimates σ_a² + σ_e²/n, which gives the first and the last term with S
    − 1 degrees of freedom; with `noise_of_seeds`, pooled over the arms, 2σ²/S is that with more of them.
    Arms may differ in their noise, so that the half-width is never below what the own seeds give with a normal
    quantile. σ_b², what the seeds share on each row, is estimated by the analysis of variance
    and has about n − 1. The half-widths of the two t intervals are added in squares (Zou & Donner 2008,
    "Construction of confidence limits about effect measures"): exact when one source of noise dominates,
    slightly wide between. Taking the raw variance of the rows' means instead of σ_b² would count σ_e²
    twice; a percentile bootstrap lacks the t factor 2.78 / 1.96 that five seeds need.

    The seeds' half-width is at least what σ_e² alone gives: the means of two or three seeds are counts of rows
    and tie by chance, which must not pass for certainty.

    choices: among how many arms the arm was chosen, on other rows but with these retrainings. Its seeds may have been
    lucky, which the choice favours, so that the seeds' part is taken at 1 − (1 − confidence) / choices; the rows are
    new, and theirs is not.
    """
    seeds, rows = differences.shape
    mean = float(differences.mean())
    of_seeds, of_rows = differences.mean(1), differences.mean(0)
    rest = differences - of_seeds[:, None] - of_rows + mean
    noise = np.square(rest).sum() / ((seeds - 1) * (rows - 1))
    shared = max(of_rows.var(ddof=1) - noise / seeds, 0.0)
    strict = 1 - (1 - confidence) / choices
    own = np.sqrt(of_seeds.var(ddof=1) / seeds)
    by_noise = t_quantile((seeds - 1) * (rows - 1), strict) * np.sqrt(noise / (seeds * rows))
    if noise_of_seeds is None:
        by_retraining = t_quantile(seeds - 1, strict) * own
    else:
        pooled = t_quantile(noise_of_seeds.degrees, strict) * np.sqrt(2 * noise_of_seeds.variance / seeds)
        by_retraining = max(pooled, float(norm.ppf((1 + strict) / 2)) * own)
    by_rows = t_quantile(rows - 1, confidence) * np.sqrt(shared / rows)
    half = float(np.hypot(max(by_noise, by_retraining), by_rows))
    return Interval(mean, mean - half, mean + half)


def seed_interval(values: np.ndarray) -> Interval:
    """A t interval over seeds, `[seeds]`, at least 2: for a quantity on rows that stay the same."""
    mean = float(values.mean())
    half = float(t_quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    return float(student.ppf((1 + confidence) / 2, degrees))


def seen_gain(half_width: float, confidence: float = BOTH) -> float:
    """The smallest gain that would be seen in 80 %, from the half-width of the interval that was measured.

    A gain is seen when the intervals of two differences, to as given and to the random control, lie above 0. Both
    share the arm, so that their errors have correlation 1/2, and both lie above −1.2 standard errors in 80 %.
    """
    quantile = float(norm.ppf((1 + confidence) / 2))
    return half_width * (1 + JOINT_QUANTILE / quantile)


def power(rows: int, seeds: int, disagreement: float = DISAGREEMENT, arms: int = 5) -> float:
    """The smallest gain of accuracy, a share, that a verdict would see in 80 %: before anything is trained.

    Two models give answers of which one is right and one wrong on a share of the rows, `disagreement`; the difference
    of a row is then −1, 0 or 1 with about that variance. Half of it is taken to be the row's own, the same for all
    seeds, and half to change with the seed: variance of the mean (1 + 1/S) / 2 · disagreement / n. Retraining as a
    whole is taken to add nothing. The interval is that of `difference_interval`, with the noise of the seeds pooled
    over so many arms.
    """
    own, changing = np.sqrt(disagreement / 2 / rows), np.sqrt(disagreement / 2 / rows / seeds)
    by_seeds = t_quantile((arms - 1) * (seeds - 1), BOTH) * changing
    half = np.hypot(by_seeds, t_quantile(rows - 1, BOTH) * own)
    return float(half + JOINT_QUANTILE * np.hypot(own, changing))
