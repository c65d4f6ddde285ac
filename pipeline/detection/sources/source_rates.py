"""Rates of wrong labels by source (vendor, annotator, batch), and the posteriors of a source's rows that follow.

Flips, and the probabilities of the right labels, are estimated from all rows together. If a source labels wrongly more
often than others, its rows are more probably wrong. The rate of a source is found by expectation maximisation: with
flips scaled to the rate, P(label is wrong) over its rows has this rate as its mean. The rate of a source with few rows
is shrunk to the rate of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detection.noise.label_flips import Flips, bayes, right_label, wrong_label

FEWEST_ROWS = 50
"""A source with fewer rows gets no rate of its own."""
STEPS = 20
INFLATED = 4.0
"""The variance of a source's rate, in units of the variance with known labels; the rate is found from probabilities."""
NUMBERS = 2**21
"""Upper limit of probabilities for the rates; of more rows, equally spaced ones are used."""
MOST_WRONG = 0.9
FACTORS = (0.2, 5.0)
"""The smallest and the largest rate of a source, as multiples of the rate of all rows."""


@dataclass(frozen=True)
class SourceRates:
    """The rates of the sources in one column.

    Attributes:
        column: a column of data.group, or the shards.
        factors: code of a value → its rate of flips as a multiple of the rate of all rows.
    """

    column: str
    factors: dict[int, float]


def telling_source(
    probabilities: np.ndarray, labels: np.ndarray, flips: Flips, columns: Sequence[tuple[str, np.ndarray]]
) -> SourceRates | None:
    """The column whose sources differ most beyond sampling, weighted by their rows; None if none do.

    Args:
        probabilities: out of sample, `[rows, classes]`.
        labels: the given labels, `[rows]`.
        flips: the label flips of all rows.
        columns: names and codes (int `[rows]`) of the columns.
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
    """The matrix of flips that are `factor` times as frequent; the flips of a class are at most MOST_WRONG."""
    wrong = flips.matrix * np.clip(factor, *FACTORS)
    np.fill_diagonal(wrong, 0)
    wrong *= np.minimum(1, MOST_WRONG / np.maximum(wrong.sum(1, keepdims=True), 1e-12))
    return wrong + np.diag(1 - wrong.sum(1))


def source_factors(
    probabilities: np.ndarray, labels: np.ndarray, flips: Flips, sources: np.ndarray
) -> dict[int, float]:
    """The rates of the sources that differ beyond sampling, as multiples of the rate of all rows.

    Args:
        probabilities: out of sample, `[rows, classes]`.
        labels: the given labels, int `[rows]`.
        flips: the label flips of all rows.
        sources: codes, int `[rows]`; a negative code means an unknown source.

    Returns:
        Code → factor.
    """
    overall = float(wrong_label(right_label(probabilities, labels, flips), labels).mean())
    names, counts = np.unique(sources[sources >= 0], return_counts=True)
    known = names[counts >= FEWEST_ROWS]
    if overall <= 0 or len(known) < 2:
        return {}
    rates, sampling = [], []
    for name in known:
        rows = sources == name
        rates.append(_own_rate(probabilities[rows], labels[rows], flips, overall))
        sampling.append(INFLATED * max(overall, 1 / rows.sum()) / rows.sum())
    rate, noise = np.array(rates), np.array(sampling)
    between = max(0.0, float(np.mean((rate - overall) ** 2 - noise)))
    trust = between / (between + noise)
    return {
        int(name): float((overall + part * (own - overall)) / overall)
        for name, own, part in zip(known, rate, trust)
        if part > 0
    }


def _own_rate(probabilities: np.ndarray, labels: np.ndarray, flips: Flips, overall: float) -> float:
    rate = overall
    for _ in range(STEPS):
        posterior = _with_own_flips(probabilities, labels, flips, rate / overall)
        rate = float(wrong_label(posterior, labels).mean())
    return rate


def _with_own_flips(probabilities: np.ndarray, labels: np.ndarray, flips: Flips, factor: float) -> np.ndarray:
    """P(class is right | features, given label) for rows of a source with this factor, float32 `[rows, classes]`."""
    return bayes(probabilities, labels, flips, scaled(flips, factor))


def right_label_by_source(
    probabilities: np.ndarray,
    labels: np.ndarray,
    flips: Flips,
    sources: np.ndarray,
    factors: dict[int, float],
) -> np.ndarray:
    """`right_label` with the flips of each row's source, float32 `[rows, classes]`."""
    posterior = right_label(probabilities, labels, flips)
    for source, factor in factors.items():
        rows = sources == source
        if rows.any():
            posterior[rows] = _with_own_flips(probabilities[rows], labels[rows], flips, factor)
    return posterior
