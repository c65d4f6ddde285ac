"""The rule `trusted`: rows known to be right bound the share of right rows that are flagged.

A conformal p-value (Vovk et al. 2005; Bates et al. 2021, arXiv 2104.08279) says how many of the trusted rows are as
suspicious as a row. The trusted rows have to have been in training as all others are, else their suspicion would not
be comparable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-9


@dataclass(frozen=True)
class TrustedFlags:
    """flagged: bool `[rows]`; used: trusted rows; needed: how many a promise takes, of each class if `by_class`."""

    flagged: np.ndarray
    used: int
    needed: int
    by_class: bool

    @property
    def abstains(self) -> bool:
        return self.used < self.needed


def needed_rows(false_flag_rate: float) -> int:
    """1/α − 1 trusted rows, rounded up: with fewer, no p-value is as low as α."""
    return math.ceil(1 / false_flag_rate - 1 - ROUNDING)


def flag_by_trusted(
    suspicion: np.ndarray, trusted: np.ndarray, strata: np.ndarray, false_flag_rate: float
) -> TrustedFlags:
    """Flag the rows whose p-value is at most the rate; trusted rows are never flagged.

    suspicion: float64 `[rows]`; trusted: bool `[rows]`; strata: int `[rows]`, classes (regression: target deciles).
    Where every stratum has enough trusted rows, rows are compared with those of their own stratum, so that the rate
    holds in each; else with all of them, so that it holds over all.
    """
    needed = needed_rows(false_flag_rate)
    of_strata = np.bincount(strata[trusted], minlength=int(strata.max()) + 1)
    by_class = bool((of_strata[np.unique(strata)] >= needed).all())
    groups = strata if by_class else np.zeros(len(strata), dtype=np.int64)
    flagged = np.zeros(len(suspicion), dtype=bool)
    for group in np.unique(groups):
        rows = groups == group
        flagged[rows] = p_values(suspicion[rows], suspicion[rows & trusted]) <= false_flag_rate + ROUNDING
    return TrustedFlags(flagged & ~trusted, int(trusted.sum()), needed, by_class)


def p_values(suspicion: np.ndarray, of_trusted: np.ndarray) -> np.ndarray:
    """(1 + trusted rows at least as suspicious) / (1 + trusted rows), float64 `[rows]`."""
    ordered = np.sort(of_trusted)
    as_high = len(ordered) - np.searchsorted(ordered, suspicion, side="left")
    return (1 + as_high) / (1 + len(ordered))
