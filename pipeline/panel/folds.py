"""Which train rows a judge is fitted on, and which it judges: folds by a hash of the features, and a sample."""

from __future__ import annotations

import numpy as np

from pipeline.seeds import random_state

KEPT_OF_A_STRATUM = 50
"""Rows of a stratum that are in the sample whatever its size."""


def assign_folds(
    features: np.ndarray, strata: np.ndarray, folds: int, seed: int, repeat: int = 0
) -> np.ndarray:
    """The fold of each row, int16 `[rows]`; rows with equal features are in one fold.

    features: hashes of the features, int64 `[rows]`. Groups of equal features are dealt out in a seeded random order,
    stratum by stratum, so that every stratum is spread as evenly as its copies allow.
    """
    values, first, group = np.unique(features, return_index=True, return_inverse=True)
    order = random_state("panel folds", seed, repeat).permutation(len(values))
    order = order[np.argsort(strata[first][order], kind="stable")]
    fold_of = np.empty(len(values), dtype=np.int16)
    fold_of[order] = np.arange(len(values)) % folds
    return fold_of[group]


def draw_sample(strata: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Places of the rows that judges are fitted on, int64, ascending: all of them, or at most about `most`.

    Of a small stratum KEPT_OF_A_STRATUM rows stay, as far as `most` allows.
    """
    rows = len(strata)
    if rows <= most:
        return np.arange(rows)
    order = random_state("panel sample", seed).permutation(rows)
    sorted_order = order[np.argsort(strata[order], kind="stable")]
    begins = np.searchsorted(strata[sorted_order], strata[sorted_order])
    ranks = np.empty(rows, dtype=np.int64)
    ranks[sorted_order] = np.arange(rows) - begins
    late = ranks[order] >= KEPT_OF_A_STRATUM
    return np.sort(order[np.argsort(late, kind="stable")][:most])


def rare_classes(labels: np.ndarray, task: str, outputs: int, folds: int) -> np.ndarray:
    """Classes with fewer train rows than folds, ascending, int64: nobody can judge them out of fold."""
    if task != "classification":
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.bincount(labels, minlength=outputs) < folds)
