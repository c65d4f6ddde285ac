"""Why a row was flagged, as codes that the report puts into words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.detection.decisions import KEEP

BACKDOOR = "backdoor"
CORRUPTED = "corrupted"
DUPLICATE_CONFLICT = "duplicate-conflict"
OUTLIER = "outlier"
MISLABELLED = "mislabelled"
SPURIOUS = "spurious"
AMBIGUOUS = "ambiguous"
HARMFUL = "harmful"
REVIEWED = "reviewed"
SUSPICIOUS = "suspicious"

CODES = (
    BACKDOOR,
    CORRUPTED,
    DUPLICATE_CONFLICT,
    OUTLIER,
    MISLABELLED,
    SPURIOUS,
    AMBIGUOUS,
    HARMFUL,
    REVIEWED,
    SUSPICIOUS,
)
"""In the order in which a row names them, the most telling first; a row's reasons are kept as bits, 1 << place."""

PLAUSIBLE = 0.5
"""A label is plausible when it is at least this many times as probable as the best, or, suggested, this probable."""


def reasons(decision: np.ndarray, evidence: dict[str, np.ndarray]) -> np.ndarray:
    """uint16 `[rows]`, the bits of the reasons; 0 for rows that are kept.

    evidence: of a code, bool `[rows]`. A row can have several; `backdoor` explains all else about it and stands alone,
    and `suspicious` stands where there is nothing but the ranking.
    """
    found = np.zeros(len(decision), dtype=np.uint16)
    for code, holds in evidence.items():
        found |= holds * bit(code)
    found[found == 0] = bit(SUSPICIOUS)
    if BACKDOOR in evidence:
        found[evidence[BACKDOOR]] = bit(BACKDOOR)
    found[decision == KEEP] = 0
    return found


def outliers(belongs_nowhere: np.ndarray, suggested: np.ndarray) -> np.ndarray:
    """bool `[rows]`: far from every class, and no other label explains it; suggested: its probability, or NaN."""
    return belongs_nowhere & ~(suggested >= PLAUSIBLE)


def ambiguous(probability: np.ndarray, runner_up: np.ndarray, temperature: float) -> np.ndarray:
    """bool `[rows]`: at the temperature, the second label is at least PLAUSIBLE times as probable as the first."""
    return runner_up >= PLAUSIBLE**temperature * probability


def bit(code: str) -> np.uint16:
    return np.uint16(1 << CODES.index(code))


def in_words(bits: np.ndarray) -> pa.Array:
    """The reasons as lists of codes, list<string> `[rows]`."""
    named = [[code for code in CODES if flags & bit(code)] for flags in range(1 << len(CODES))]
    return pa.array(named, pa.list_(pa.string())).take(pa.array(bits))
