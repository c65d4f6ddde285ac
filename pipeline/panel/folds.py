"""Folds by a hash of the features, and the sample of train rows that judges are fitted on."""

from __future__ import annotations

import numpy as np

from pipeline.seeds import random_state

KEPT_OF_A_STRATUM = 50
"""So many rows of a stratum come into the sample first, whatever the size of the stratum."""


def assign_folds(
    features: np.ndarray, strata: np.ndarray, folds: int, seed: int, repeat: int = 0
) -> np.ndarray:
    """Assign rows to folds; rows with equal features get the same fold.

    Groups of equal features are dealt to the folds in a seeded random order, stratum by stratum. So every stratum is
    spread over the folds as evenly as its copies allow.

    Args:
        features: hashes of the features, int64 `[rows]`.
        strata: int64 `[rows]`.
        folds: how many folds there are.
        seed: of the order.
        repeat: counts assignments of the same rows; each has another order.

    Returns:
        int16 `[rows]`.
    """
    values, first, group = np.unique(features, return_index=True, return_inverse=True)
    order = random_state("panel folds", seed, repeat).permutation(len(values))
    order = order[np.argsort(strata[first][order], kind="stable")]
    fold_of = np.empty(len(values), dtype=np.int16)
    fold_of[order] = np.arange(len(values)) % folds
    return fold_of[group]


def draw_sample(strata: np.ndarray, most: int, seed: int) -> np.ndarray:
    """The places of the rows that judges are fitted on: all rows, or a random sample of `most` rows.

    The sample takes up to KEPT_OF_A_STRATUM rows of every stratum first, as far as `most` allows.

    Returns:
        int64, ascending.
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
    """Classes with fewer train rows than folds, int64, ascending; no judge can predict them out of fold."""
    if task != "classification":
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.bincount(labels, minlength=outputs) < folds)
