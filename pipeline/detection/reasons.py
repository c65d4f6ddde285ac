"""Why a row was flagged, as codes that the report puts into words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.detection.columns import Column
from pipeline.detection.decisions import KEEP

MISLABELLED = "mislabelled"
HARMFUL = "harmful"
AMBIGUOUS = "ambiguous"
DUPLICATE_CONFLICT = "duplicate-conflict"
BACKDOOR = "backdoor"

CODES = (MISLABELLED, DUPLICATE_CONFLICT, HARMFUL, AMBIGUOUS, BACKDOOR)
"""In the order in which a row names them; a row's reasons are kept as bits, 1 << place."""


def reasons(
    decision: np.ndarray,
    contradicted: np.ndarray,
    harm: np.ndarray | Column | None,
    conflicting: np.ndarray,
    carriers: np.ndarray,
) -> np.ndarray:
    """uint8 `[rows]`, the bits of the reasons; 0 for rows that are kept.

    `mislabelled`: another label fits better out of sample; `duplicate-conflict`: the same features occur with
    another label; `harmful`: it raises the loss on clean validation rows; `ambiguous`: flagged by the ranking alone.
    `backdoor`: it carries a pattern that makes the model predict its label, which explains all else about it.
    All arguments are `[rows]`: uint8, bool, float64 (or None without a clean validation set), bool, bool.
    """
    found = contradicted * bit(MISLABELLED) | conflicting * bit(DUPLICATE_CONFLICT)
    if harm is not None:
        found |= (np.asarray(harm) > 0) * bit(HARMFUL)
    found[found == 0] = bit(AMBIGUOUS)
    found[carriers] = bit(BACKDOOR)
    found[decision == KEEP] = 0
    return found


def bit(code: str) -> np.uint8:
    return np.uint8(1 << CODES.index(code))


def in_words(bits: np.ndarray) -> pa.Array:
    """The reasons as lists of codes, list<string> `[rows]`."""
    named = [[code for code in CODES if flags & bit(code)] for flags in range(1 << len(CODES))]
    return pa.array(named, pa.list_(pa.string())).take(pa.array(bits))
