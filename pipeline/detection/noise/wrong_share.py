"""How many labels of one noisy file are wrong, in all and per pair, with an interval: from the judges alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detection.judges.class_judges import pooled
from pipeline.detection.noise.confused_pairs import MOST_PAIRS, Pair
from pipeline.detection.noise.label_flips import Flips, estimate_flips, right_label, wrong_label
from pipeline.detection.noise.noise_estimate import NoiseEstimate
from pipeline.seeds import random_state

DRAWS = 30
"""Resamples of the rows, by which an interval is as wide as sampling makes it."""
NUMBERS = 2**21
"""Probabilities that an estimate is made from: rows × classes. Of more rows equally spaced ones are taken."""
LEAST_EXPLAINED = 0.05
"""Of the loss without looking at the features: judges that explain less can't tell wrong labels from their errors."""
NORMAL = 1.96
LEAST_TOLD, MOST_UNTOLD = 0.15, 0.08
"""Nothing tells wrong labels from hard rows where less than the first, of the contradicted labels, is estimated to be
wrong, and the rest of them is more than the second, of all rows."""


@dataclass(frozen=True)
class WrongShare:
    """estimate: the share of wrong labels among the rows; flips: how right labels become given ones; pairs: where."""

    estimate: NoiseEstimate
    flips: Flips
    pairs: list[Pair]


def estimate_wrong_share(
    opinions: Sequence[np.ndarray], weights: np.ndarray, labels: np.ndarray, seed: int
) -> WrongShare:
    """From out-of-sample opinions of the judges that count, `[rows, classes]` each, and the given labels `[rows]`.

    The interval joins what resampled rows change with how much single judges differ, both in squares: an error that all
    judges share is not in it.
    """
    step = max(1, -(-opinions[0].size // NUMBERS))
    chosen = slice(None, None, step)
    seen, given = [np.asarray(opinion[chosen]) for opinion in opinions], labels[chosen]
    together = pooled(seen, weights)
    flips = estimate_flips(together, given)
    counts = pair_counts(together, given, flips)
    random = random_state("wrong share", seed)
    rows = len(given)
    draws = []
    for _ in range(DRAWS):
        drawn = random.randint(rows, size=rows)
        draws.append(pair_counts(together[drawn], given[drawn]))
    alone = [pair_counts(opinion, given).sum() / rows for opinion in seen] if len(seen) > 1 else []
    value = float(counts.sum() / rows)
    sampling = float(np.std([each.sum() / rows for each in draws], ddof=1))
    between = float(np.std(alone, ddof=1)) if alone else 0.0
    half = NORMAL * float(np.hypot(sampling, between))
    estimate = NoiseEstimate(value, max(0.0, value - half), min(1.0, value + half))
    contradicted = np.zeros_like(counts)
    best = together.argmax(1)
    np.add.at(contradicted, (given[best != given], best[best != given]), 1)
    spread = np.std(draws, axis=0, ddof=1)
    return WrongShare(estimate, flips, largest_pairs(counts * step, spread * step, contradicted * step))


def is_told(estimate: NoiseEstimate, contradicted: float) -> bool:
    """Whether the estimate says something of the labels that judges contradict, `contradicted` of all.

    Wrong labels are told by contradictions of rows whose class is sure. Where judges contradict many labels, but hardly
    any surely, either the classes overlap there or labels are wrong just there: both look the same to every judge.
    """
    return estimate.value >= LEAST_TOLD * contradicted or contradicted - estimate.value < MOST_UNTOLD


def pair_counts(probabilities: np.ndarray, labels: np.ndarray, flips: Flips | None = None) -> np.ndarray:
    """Rows of each pair [given, right], the right label another: float64 `[classes, classes]`."""
    flips = flips or estimate_flips(probabilities, labels)
    posterior = right_label(probabilities, labels, flips)
    counts = np.zeros((probabilities.shape[1],) * 2)
    np.add.at(counts, labels, posterior)
    np.fill_diagonal(counts, 0)
    return counts


def largest_pairs(counts: np.ndarray, spread: np.ndarray, contradicted: np.ndarray) -> list[Pair]:
    """The MOST_PAIRS pairs with the most wrong labels, of those whose estimate is a row or more."""
    found = []
    for given, right in zip(*np.nonzero(counts >= 1)):
        value, half = float(counts[given, right]), NORMAL * float(spread[given, right])
        rows = int(contradicted[given, right])
        found.append(Pair(int(given), int(right), rows, value, max(0.0, value - half), value + half))
    return sorted(found, key=lambda pair: (-pair.estimated, pair.given))[:MOST_PAIRS]


def share_of_rows(wrong: np.ndarray, of_train: NoiseEstimate) -> NoiseEstimate:
    """The share among other rows with the same flips: as sure as the train rows' estimate, and by their own number.

    wrong: P(given label is wrong), float64 `[rows]`.
    """
    value = float(wrong.mean())
    shared = (of_train.high - of_train.low) / 2
    half = float(np.hypot(shared, NORMAL * wrong.std() / np.sqrt(len(wrong))))
    return NoiseEstimate(value, max(0.0, value - half), min(1.0, value + half))


def mean_of_shares(parts: Sequence[tuple[int, NoiseEstimate]]) -> NoiseEstimate:
    """Of several sets of rows (their numbers, their estimates) together; their errors are taken to be the same ones."""
    total = sum(rows for rows, _ in parts)
    means = [
        sum(rows * getattr(each, end) for rows, each in parts) / total for end in ("value", "low", "high")
    ]
    return NoiseEstimate(*means)


def estimate_wrong_answers(chances: np.ndarray, given: np.ndarray, seed: int) -> NoiseEstimate:
    """The share of wrong answers of sets of labels: each label is a question of two classes with flips of its own.

    chances: out of sample, `[rows, labels]`; given: uint8 `[rows, labels]`. The interval resamples rows.
    """
    step = max(1, -(-2 * chances.size // NUMBERS))
    seen, sets = np.asarray(chances[::step]), given[::step]
    random = random_state("wrong answers", seed)
    value = wrong_answers(seen, sets)
    drawn = (random.randint(len(seen), size=len(seen)) for _ in range(DRAWS))
    half = NORMAL * float(np.std([wrong_answers(seen[rows], sets[rows]) for rows in drawn], ddof=1))
    return NoiseEstimate(value, max(0.0, value - half), min(1.0, value + half))


def wrong_answers(chances: np.ndarray, given: np.ndarray) -> float:
    shares = []
    for label in range(given.shape[1]):
        both = np.stack([1 - chances[:, label], chances[:, label]], 1)
        answers = given[:, label].astype(np.int64)
        shares.append(wrong_label(right_label(both, answers, estimate_flips(both, answers)), answers).mean())
    return float(np.mean(shares))
