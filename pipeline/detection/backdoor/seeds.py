"""Finds suspect rows: the model is confident in a label that the content of the row does not support.

There are three views, none of which is good enough alone: confidence that the neighbours do not support, confidence
that persists when the row is mixed with other rows (STRIP, Gao et al. 2019), and the smaller of two clusters of a
class's activations (Chen et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from pipeline.detection.backdoor.subject import Inputs, Subject
from pipeline.features.registry import find_input
from pipeline.seeds import random_state

SEEDS = 12
MIXTURES = 4
CLUSTER_DIMENSIONS = 10
LEAST_CLASS = 16
"""Classes with fewer rows are not clustered."""


@dataclass(frozen=True)
class SeedScores:
    """Scores of the rows, float32 `[rows]` in [0, 1] each; high scores are suspect.

    Attributes:
        sure: p(own label) · (1 − share of neighbours with the label).
        steady: the same with the mean probability of the own label after mixing.
    """

    sure: np.ndarray
    steady: np.ndarray


def score_seeds(subject: Subject, own_share: np.ndarray) -> SeedScores:
    """Score the rows; `own_share` is the share of a row's neighbours with its label (`blind`), float32 `[rows]`."""
    own = subject.probabilities[np.arange(len(subject.labels)), subject.labels]
    return SeedScores(own * (1 - own_share), _steadiness(subject) * (1 - own_share))


def _steadiness(subject: Subject) -> np.ndarray:
    """The mean probability of the own label when a row is mixed with random other rows, float32 `[rows]`."""
    random = random_state("backdoor mixtures", subject.seed)
    rows, total = len(subject.labels), np.zeros(len(subject.labels), dtype=np.float32)
    for _ in range(MIXTURES):
        mixed = mix(subject.inputs, random.permutation(rows), random)
        total += subject.predict(mixed)[np.arange(rows), subject.labels]
    return total / MIXTURES


def mix(inputs: Inputs, partners: np.ndarray, random: np.random.RandomState) -> Inputs:
    """Mix each row with its partner: pixels are averaged, tokens and columns are taken from either at random."""
    return {kind: find_input(kind).mix(rows, rows[partners], random) for kind, rows in inputs.items()}


def seed_lists(subject: Subject, scores: SeedScores, target: int) -> list[np.ndarray]:
    """The places of the most suspect rows of a class, one list per view, most suspect first."""
    own = np.flatnonzero(subject.labels == target)
    lists = [own[np.argsort(-values[own], kind="stable")[:SEEDS]] for values in (scores.sure, scores.steady)]
    if len(own) >= LEAST_CLASS and subject.features[own].std(0).any():
        lists.append(own[smaller_cluster(subject.features[own], subject.seed)])
    return lists


def smaller_cluster(features: np.ndarray, seed: int) -> np.ndarray:
    """The places of the rows deepest inside the smaller of two clusters; features are `[rows, width]`."""
    centred = (features - features.mean(0)) / (features.std(0) + 1e-6)
    reduced = PCA(min(CLUSTER_DIMENSIONS, *centred.shape), random_state=seed).fit_transform(centred)
    clusters = KMeans(2, n_init=3, random_state=seed).fit(reduced)
    small = int(np.bincount(clusters.labels_, minlength=2).argmin())
    distance = clusters.transform(reduced)
    depth = distance[:, 1 - small] - distance[:, small]
    members = np.flatnonzero(clusters.labels_ == small)
    return members[np.argsort(-depth[members], kind="stable")[:SEEDS]]


def union(lists: list[np.ndarray]) -> np.ndarray:
    """All places in the lists: the first of each list, then the second of each, and so on."""
    longest = max(map(len, lists))
    order = [each[place] for place in range(longest) for each in lists if place < len(each)]
    return np.array(list(dict.fromkeys(order)), dtype=np.int64)
