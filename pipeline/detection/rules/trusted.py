"""The rule `trusted`: rows that are known to be right bound the share of right rows that are flagged.

A conformal p-value (Vovk et al. 2005; Bates et al. 2021, arXiv 2104.08279) tells which share of the trusted rows is as
suspicious as a row. The trusted rows must be train rows like all others, or their suspicion would not be comparable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-9


@dataclass(frozen=True)
class TrustedFlags:
    """The flags of the rule `trusted`.

    Attributes:
        flagged: bool `[rows]`.
        used: how many trusted rows there are.
        needed: how many a guarantee needs, in each class if `by_class`.
        by_class: whether rows are compared with trusted rows of their own class.
    """

    flagged: np.ndarray
    used: int
    needed: int
    by_class: bool

    @property
    def abstains(self) -> bool:
        return self.used < self.needed


def needed_rows(false_flag_rate: float) -> int:
    """How many trusted rows are needed: 1/α − 1, rounded up. With fewer rows, no p-value can be as low as α."""
    return math.ceil(1 / false_flag_rate - 1 - ROUNDING)


def flag_by_trusted(
    suspicion: np.ndarray, trusted: np.ndarray, strata: np.ndarray, false_flag_rate: float
) -> TrustedFlags:
    """Flag the rows whose p-value is at most the false-flag rate; trusted rows are never flagged.

    If every stratum has enough trusted rows, rows are compared with those of their own stratum, and the rate holds in
    every stratum. Otherwise rows are compared with all trusted rows, and the rate holds over all rows.

    Args:
        suspicion: float64 `[rows]`.
        trusted: bool `[rows]`.
        strata: int `[rows]`, the classes (for regression deciles of the predicted target).
        false_flag_rate: α.
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
    """The conformal p-values, (1 + trusted rows at least as suspicious) / (1 + trusted rows), float64 `[rows]`."""
    ordered = np.sort(of_trusted)
    as_high = len(ordered) - np.searchsorted(ordered, suspicion, side="left")
    return (1 + as_high) / (1 + len(ordered))
