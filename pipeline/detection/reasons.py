"""The reasons of the rows, stored as bits: 1 << place in REASONS."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.text.decisions import Decision
from pipeline.text.reasons import BACKDOOR, REASONS, SUSPICIOUS, Reason

PLAUSIBLE = 0.5
"""A label is plausible if it is at least this many times as probable as the best label; a suggested label is plausible
if its probability is at least this."""


def reasons(decision: np.ndarray, evidence: Mapping[Reason, np.ndarray]) -> np.ndarray:
    """The reasons of every row.

    A row can have several reasons. BACKDOOR explains everything else about a row, so that it is the only reason then.
    SUSPICIOUS is the reason if a row is flagged by the ranking alone.

    Args:
        decision: uint8 `[rows]`.
        evidence: reason → bool `[rows]`, whether it holds.

    Returns:
        The bits of the reasons, uint16 `[rows]`; 0 for rows that are kept.
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
    """Rows that are far from every class and that no other label explains, bool `[rows]`.

    Args:
        belongs_nowhere: bool `[rows]`.
        suggested: the probability of the suggested label, float64 `[rows]`; NaN without one.
    """
    return belongs_nowhere & ~(suggested >= PLAUSIBLE)


def ambiguous(probability: np.ndarray, runner_up: np.ndarray, temperature: float) -> np.ndarray:
    """Rows whose second label is, at the temperature, at least PLAUSIBLE times as probable as the first, bool."""
    return runner_up >= PLAUSIBLE**temperature * probability


def bit(reason: Reason) -> np.uint16:
    return np.uint16(1 << REASONS.index(reason))


def in_words(bits: np.ndarray) -> pa.Array:
    """Turn bits into lists of reason codes, list<string> `[rows]`."""
    named = [[reason.code for reason in REASONS if flags & bit(reason)] for flags in range(1 << len(REASONS))]
    return pa.array(named, pa.list_(pa.string())).take(pa.array(bits))
