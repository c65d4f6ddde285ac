"""Estimates the wrong labels of one noisy file from the judges alone, in all and per pair, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detection.judges.class_judges import pooled
from pipeline.detection.noise.confused_pairs import MOST_PAIRS, Pair
from pipeline.detection.noise.label_flips import Flips, estimate_flips, right_label, wrong_label
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.detection.noise.shares import NORMAL
from pipeline.seeds import random_state

DRAWS = 30
"""How often rows are resampled for the interval."""
NUMBERS = 2**21
"""Upper limit of probabilities (rows × classes) for an estimate; of more rows, equally spaced ones are used."""
LEAST_EXPLAINED = 0.05
"""Judges that explain a smaller share of the log loss can't tell wrong labels from their own errors."""
LEAST_TOLD, MOST_UNTOLD = 0.15, 0.08
"""Wrong labels can't be told from hard rows if the estimate is less than the first share of the contradicted labels,
and the other contradicted labels are more than the second share of all rows."""


@dataclass(frozen=True)
class WrongShare:
    """The estimated share of wrong labels.

    Attributes:
        estimate: the share with its interval.
        flips: the label flips.
        pairs: the pairs of labels with the most wrong labels.
    """

    estimate: NoiseEstimate
    flips: Flips
    pairs: list[Pair]


def estimate_wrong_share(
    opinions: Sequence[np.ndarray], weights: np.ndarray, labels: np.ndarray, seed: int
) -> WrongShare:
    """Estimate the share of wrong labels from the judges.

    The interval adds in squares the variation over resampled rows and the variation between single judges. It does not
    cover errors that all judges share.

    Args:
        opinions: out-of-sample probabilities of the judges with a vote, `[rows, classes]` each.
        weights: of the judges.
        labels: the given labels, `[rows]`.
        seed: of the resampling.
    """
    step = max(1, -(-opinions[0].size // NUMBERS))
    chosen = slice(None, None, step)
    seen, given = [np.asarray(opinion[chosen]) for opinion in opinions], labels[chosen]
    together = pooled(seen, weights)
    flips = estimate_flips(together, given)
    counts = _pair_counts(together, given, flips)
    random = random_state("wrong share", seed)
    rows = len(given)
    draws = []
    for _ in range(DRAWS):
        drawn = random.randint(rows, size=rows)
        draws.append(_pair_counts(together[drawn], given[drawn]))
    alone = [_pair_counts(opinion, given).sum() / rows for opinion in seen] if len(seen) > 1 else []
    value = float(counts.sum() / rows)
    sampling = float(np.std([each.sum() / rows for each in draws], ddof=1))
    between = float(np.std(alone, ddof=1)) if alone else 0.0
    half = NORMAL * float(np.hypot(sampling, between))
    estimate = NoiseEstimate.around(value, half)
    contradicted = np.zeros_like(counts)
    best = together.argmax(1)
    np.add.at(contradicted, (given[best != given], best[best != given]), 1)
    spread = np.std(draws, axis=0, ddof=1)
    return WrongShare(estimate, flips, largest_pairs(counts * step, spread * step, contradicted * step))


def is_told(estimate: NoiseEstimate, contradicted: float) -> bool:
    """Whether the estimate tells wrong labels from hard rows; `contradicted` is the share of contradicted labels.

    Wrong labels show as contradictions on rows with a certain class. If judges contradict many labels but hardly any
    with certainty, either the classes overlap there or labels are wrong just there; no judge can tell the two apart.
    """
    return estimate.value >= LEAST_TOLD * contradicted or contradicted - estimate.value < MOST_UNTOLD


def _pair_counts(probabilities: np.ndarray, labels: np.ndarray, flips: Flips | None = None) -> np.ndarray:
    """The expected number of wrong labels for each pair, float64 `[given, right]`."""
    flips = flips or estimate_flips(probabilities, labels)
    posterior = right_label(probabilities, labels, flips)
    counts = np.zeros((probabilities.shape[1],) * 2)
    np.add.at(counts, labels, posterior)
    np.fill_diagonal(counts, 0)
    return counts


def largest_pairs(counts: np.ndarray, spread: np.ndarray, contradicted: np.ndarray) -> list[Pair]:
    """The MOST_PAIRS pairs with the most wrong labels; pairs with an estimate below 1 row are left out."""
    found = []
    for given, right in zip(*np.nonzero(counts >= 1)):
        value, half = float(counts[given, right]), NORMAL * float(spread[given, right])
        rows = int(contradicted[given, right])
        found.append(Pair(int(given), int(right), rows, value, max(0.0, value - half), value + half))
    return sorted(found, key=lambda pair: (-pair.estimated, pair.given))[:MOST_PAIRS]


def estimate_wrong_answers(chances: np.ndarray, given: np.ndarray, seed: int) -> NoiseEstimate:
    """The share of wrong answers for sets of labels; each label is a task of two classes with its own flips.

    Args:
        chances: out-of-sample probabilities, `[rows, labels]`.
        given: uint8 `[rows, labels]`.
        seed: of the resampling of rows for the interval.
    """
    step = max(1, -(-2 * chances.size // NUMBERS))
    seen, sets = np.asarray(chances[::step]), given[::step]
    random = random_state("wrong answers", seed)
    value = _wrong_answers(seen, sets)
    drawn = (random.randint(len(seen), size=len(seen)) for _ in range(DRAWS))
    half = NORMAL * float(np.std([_wrong_answers(seen[rows], sets[rows]) for rows in drawn], ddof=1))
    return NoiseEstimate.around(value, half)


def _wrong_answers(chances: np.ndarray, given: np.ndarray) -> float:
    shares = []
    for label in range(given.shape[1]):
        both = np.stack([1 - chances[:, label], chances[:, label]], 1)
        answers = given[:, label].astype(np.int64)
        shares.append(wrong_label(right_label(both, answers, estimate_flips(both, answers)), answers).mean())
    return float(np.mean(shares))
