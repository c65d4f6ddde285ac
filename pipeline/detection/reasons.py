"""Which reasons hold for which rows, kept as bits: 1 << the place among REASONS."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.text.decisions import Decision
from pipeline.text.reasons import BACKDOOR, REASONS, SUSPICIOUS, Reason

PLAUSIBLE = 0.5
"""A label is plausible when it is at least this many times as probable as the best, or, suggested, this probable."""


def reasons(decision: np.ndarray, evidence: Mapping[Reason, np.ndarray]) -> np.ndarray:
    """uint16 `[rows]`, the bits of the reasons; 0 for rows that are kept.

    evidence: reason → bool `[rows]`, whether it holds. A row can have several. BACKDOOR explains all else about a row
    and stands alone; SUSPICIOUS stands where there is nothing but the ranking.
    """
    found = np.zeros(len(decision), dtype=np.uint16)
    for reason, holds in evidence.items():
        found |= holds * bit(reason)
    found[found == 0] = bit(SUSPICIOUS)
    if BACKDOOR in evidence:
        found[evidence[BACKDOOR]] = bit(BACKDOOR)
    found[decision == Decision.KEEP] = 0
    return found


def outliers(belongs_nowhere: np.ndarray, suggested: np.ndarray) -> np.ndarray:
    """bool `[rows]`: far from every class, and no other label explains it; suggested: its probability, or NaN."""
    return belongs_nowhere & ~(suggested >= PLAUSIBLE)


def ambiguous(probability: np.ndarray, runner_up: np.ndarray, temperature: float) -> np.ndarray:
    """bool `[rows]`: at the temperature, the second label is at least PLAUSIBLE times as probable as the first."""
    return runner_up >= PLAUSIBLE**temperature * probability


def bit(reason: Reason) -> np.uint16:
    return np.uint16(1 << REASONS.index(reason))


def in_words(bits: np.ndarray) -> pa.Array:
    """The reasons as lists of codes, list<string> `[rows]`."""
    named = [[reason.code for reason in REASONS if flags & bit(reason)] for flags in range(1 << len(REASONS))]
    return pa.array(named, pa.list_(pa.string())).take(pa.array(bits))
