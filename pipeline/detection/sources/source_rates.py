"""Sources that label worse than others: how often each flips labels, and what that makes of its rows.

Flips, and the chances of right labels, are estimated from all rows together. Where a source (vendor, annotator, batch)
labels wrongly more often than others, its rows are more probably wrong. Its rate is found by expectation and
maximisation: P(label is wrong) of its rows, with the flips scaled to its rate, has that rate as its mean. A source of
few rows is shrunk to the rate of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detection.noise.label_flips import Flips, bayes, right_label, wrong_label

FEWEST_ROWS = 50
"""Of a source with a rate of its own."""
STEPS = 20
INFLATED = 4.0
"""The variance of a source's rate, in units of that of a share of known labels: it is found from doubtful ones."""
NUMBERS = 2**21
"""Probabilities that rates are found from; of more rows equally spaced ones are taken."""
MOST_WRONG = 0.9
FACTORS = (0.2, 5.0)
"""The least and the largest multiple of the rate of all rows that a source is given."""


@dataclass(frozen=True)
class SourceRates:
    """column: of data.group, or the shards; factors: code of its value → how many times as often it flips labels."""

    column: str
    factors: dict[int, float]


def telling_source(
    probabilities: np.ndarray, labels: np.ndarray, flips: Flips, columns: Sequence[tuple[str, np.ndarray]]
) -> SourceRates | None:
    """The column whose sources differ most beyond sampling, weighed by their rows; None where none do.

    columns: names and codes, int `[rows]`.
    """
    best, found = 0.0, None
    chosen = slice(None, None, max(1, -(-probabilities.size // NUMBERS)))
    for name, codes in columns:
        factors = source_factors(probabilities[chosen], labels[chosen], flips, codes[chosen])
        spread = sum(float((codes == code).mean()) * (factor - 1) ** 2 for code, factor in factors.items())
        if spread > best:
            best, found = spread, SourceRates(name, factors)
    return found


def scaled(flips: Flips, factor: float) -> np.ndarray:
    """The matrix of flips that happen `factor` times as often, each class's at MOST_WRONG at most."""
    wrong = flips.matrix * np.clip(factor, *FACTORS)
    np.fill_diagonal(wrong, 0)
    wrong *= np.minimum(1, MOST_WRONG / np.maximum(wrong.sum(1, keepdims=True), 1e-12))
    return wrong + np.diag(1 - wrong.sum(1))


def source_factors(
    probabilities: np.ndarray, labels: np.ndarray, flips: Flips, sources: np.ndarray
) -> dict[int, float]:
    """Source → how many times as often as in all rows it flips labels, of sources that differ beyond sampling.

    probabilities: out of sample `[rows, classes]`; labels, sources: int `[rows]`, a source below 0 is not known.
    """
    overall = float(wrong_label(right_label(probabilities, labels, flips), labels).mean())
    names, counts = np.unique(sources[sources >= 0], return_counts=True)
    known = names[counts >= FEWEST_ROWS]
    if overall <= 0 or len(known) < 2:
        return {}
    rates, sampling = [], []
    for name in known:
        rows = sources == name
        rates.append(own_rate(probabilities[rows], labels[rows], flips, overall))
        sampling.append(INFLATED * max(overall, 1 / rows.sum()) / rows.sum())
    rate, noise = np.array(rates), np.array(sampling)
    between = max(0.0, float(np.mean((rate - overall) ** 2 - noise)))
    trust = between / (between + noise)
    return {
        int(name): float((overall + part * (own - overall)) / overall)
        for name, own, part in zip(known, rate, trust)
        if part > 0
    }


def own_rate(probabilities: np.ndarray, labels: np.ndarray, flips: Flips, overall: float) -> float:
    rate = overall
    for _ in range(STEPS):
        posterior = with_own_flips(probabilities, labels, flips, rate / overall)
        rate = float(wrong_label(posterior, labels).mean())
    return rate


def with_own_flips(probabilities: np.ndarray, labels: np.ndarray, flips: Flips, factor: float) -> np.ndarray:
    """P(class is right | features, given label) of a source's rows, float32 `[rows, classes]`."""
    return bayes(probabilities, labels, flips, scaled(flips, factor))


def right_label_by_source(
    probabilities: np.ndarray,
    labels: np.ndarray,
    flips: Flips,
    sources: np.ndarray,
    factors: dict[int, float],
) -> np.ndarray:
    """What `right_label` gives, with each source's own flips, float32 `[rows, classes]`."""
    posterior = right_label(probabilities, labels, flips)
    for source, factor in factors.items():
        rows = sources == source
        if rows.any():
            posterior[rows] = with_own_flips(probabilities[rows], labels[rows], flips, factor)
    return posterior
