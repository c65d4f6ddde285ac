"""Confidence intervals for the difference between two arms, and their statistical power."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

CONFIDENCE = 0.95
BOTH = 1 - (1 - CONFIDENCE) / 2
"""The confidence of each of two intervals (metric and loss) that hold together with 95 % (Bonferroni)."""
SEEN = 0.8
JOINT_QUANTILE = 1.1684
"""Two standard normal errors with correlation 1/2 both exceed −JOINT_QUANTILE with a probability of 80 %. Differences
that share an arm have this correlation."""
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
    """The noise of retraining.

    Attributes:
        variance: of an arm's mean over rows from seed to seed, without the part that all arms share.
        degrees: degrees of freedom of this estimate.
    """

    variance: float
    degrees: int


def seed_noise(means: np.ndarray) -> SeedNoise:
    """The noise of retraining, pooled over all arms.

    The model: arm a with seed s has the mean μ_a + c_s + e_as, where c_s is common to all arms, since equal seeds begin
    with equal weights. The residual sum of squares of this two-way layout, divided by (A − 1)(S − 1), estimates σ². The
    difference of two arms' means over the seeds has the variance 2σ²/S. With 5 arms and 2 seeds the t quantile has 4
    degrees of freedom (2.8); two seeds of one difference alone give one degree of freedom (12.7).

    Args:
        means: `[arms, seeds]`, each the mean over the rows.
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
    """The mean difference of two arms, with an interval for new seeds and new rows.

    The model has crossed random effects: the difference with seed s on row i is μ + a_s + b_i + e_si. The variance of
    the overall mean is σ_a²/S + σ_b²/n + σ_e²/(S·n) for S seeds and n rows.

    The part of the seeds: the variance of the seeds' means estimates σ_a² + σ_e²/n, which gives the first and the last
    term with S − 1 degrees of freedom. With `noise_of_seeds`, 2σ²/S estimates the same with more degrees of freedom.
    Arms may differ in their noise, so that the half-width is never below that of the arm's own seeds with a normal
    quantile. It is also at least what σ_e² alone gives: the means of two or three seeds are counts of rows and can be
    equal by chance, which must not count as certainty.

    The part of the rows: σ_b², which the seeds share on each row, is estimated by the analysis of variance with about
    n − 1 degrees of freedom. The raw variance of the rows' means would count σ_e² twice.

    The half-widths of the two t intervals are added in squares (Zou & Donner 2008, "Construction of confidence limits
    about effect measures"). This is exact if one source of noise dominates, and slightly wide otherwise. A percentile
    bootstrap would lack the t factor 2.78 / 1.96 that five seeds need.

    Args:
        differences: `[seeds, rows]`, at least 2 of each, paired by seed and row.
        confidence: of the interval.
        noise_of_seeds: the noise of retraining, pooled over arms; None uses the seeds of this difference alone.
        choices: among how many arms the arm was chosen, on other rows but with the same retrainings. The choice favours
            an arm with lucky seeds, so that the part of the seeds is taken at 1 − (1 − confidence) / choices. The rows
            are new, so that their part is not changed.
    """
    seeds, rows = differences.shape
    mean = float(differences.mean())
    of_seeds, of_rows = differences.mean(1), differences.mean(0)
    rest = differences - of_seeds[:, None] - of_rows + mean
    noise = np.square(rest).sum() / ((seeds - 1) * (rows - 1))
    shared = max(of_rows.var(ddof=1) - noise / seeds, 0.0)
    strict = 1 - (1 - confidence) / choices
    own = np.sqrt(of_seeds.var(ddof=1) / seeds)
    by_noise = _t_quantile((seeds - 1) * (rows - 1), strict) * np.sqrt(noise / (seeds * rows))
    if noise_of_seeds is None:
        by_retraining = _t_quantile(seeds - 1, strict) * own
    else:
        pooled = _t_quantile(noise_of_seeds.degrees, strict) * np.sqrt(2 * noise_of_seeds.variance / seeds)
        by_retraining = max(pooled, float(norm.ppf((1 + strict) / 2)) * own)
    by_rows = _t_quantile(rows - 1, confidence) * np.sqrt(shared / rows)
    half = float(np.hypot(max(by_noise, by_retraining), by_rows))
    return Interval(mean, mean - half, mean + half)


def seed_interval(values: np.ndarray) -> Interval:
    """The mean with a t interval over seeds, for a quantity on fixed rows; `values`: `[seeds]`, at least 2."""
    mean = float(values.mean())
    half = float(_t_quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def _t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    return float(student.ppf((1 + confidence) / 2, degrees))


def seen_gain(half_width: float, confidence: float = BOTH) -> float:
    """The smallest gain that would be detected with a probability of 80 %.

    A gain is detected if the intervals of two differences, to `as_given` and to the random control, lie above 0. The
    differences share the arm, so that their errors have correlation 1/2. Both errors exceed −JOINT_QUANTILE standard
    errors with a probability of 80 %.

    Args:
        half_width: of the measured interval.
        confidence: of the measured interval.
    """
    quantile = float(norm.ppf((1 + confidence) / 2))
    return half_width * (1 + JOINT_QUANTILE / quantile)


def power(rows: int, seeds: int, disagreement: float = DISAGREEMENT, arms: int = 5) -> float:
    """The smallest gain of accuracy that a verdict would detect with a probability of 80 %, before anything is trained.

    On the share `disagreement` of the rows, exactly one of two models is right. The difference of a row is −1, 0 or 1,
    and its variance is about `disagreement`. Half of this variance is assumed to belong to the row, equal for all
    seeds, and half to change with the seed, so that the mean has the variance (1 + 1/S) / 2 · disagreement / n. Seeds
    are assumed to shift no arm as a whole. The interval is that of `difference_interval` with pooled noise.

    Args:
        rows: how many rows measure.
        seeds: how many retrainings there are of each arm.
        disagreement: a share of the rows.
        arms: over how many arms the noise of retraining is pooled.

    Returns:
        The gain as a share of the rows.
    """
    own, changing = np.sqrt(disagreement / 2 / rows), np.sqrt(disagreement / 2 / rows / seeds)
    by_seeds = _t_quantile((arms - 1) * (seeds - 1), BOTH) * changing
    half = np.hypot(by_seeds, _t_quantile(rows - 1, BOTH) * own)
    return float(half + JOINT_QUANTILE * np.hypot(own, changing))
