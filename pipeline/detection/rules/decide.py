"""Sets the decision of every row within the caps; no other code does, and all counts come from these decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config import Detection
from pipeline.text.decisions import Decision


@dataclass(frozen=True)
class Ranked:
    """What decisions are made from; arrays are `[rows]`.

    Attributes:
        suspicion: float64.
        row_ids: int64, hashes of the row keys; they break ties.
        strata: int, the classes (for regression deciles of the predicted target); each has its own cap.
        relabel_probability: float64, of the suggested label; NaN without one.
        carriers: bool, whether the row carries a backdoor.
    """

    suspicion: np.ndarray
    row_ids: np.ndarray
    strata: np.ndarray
    relabel_probability: np.ndarray
    carriers: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """The places of the rows without a backdoor, the most suspicious first."""
        order = np.lexsort((self.row_ids, -self.suspicion))
        return order[~self.carriers[order]]

    @property
    def poisoned(self) -> np.ndarray:
        """The places of the rows with a backdoor, the most suspicious first."""
        order = np.lexsort((self.row_ids, -self.suspicion))
        return order[self.carriers[order]]


@dataclass(frozen=True)
class FlagChoice:
    """The choice of a rule.

    Attributes:
        wrong: places of the rows to remove, in order of priority.
        review: how many of the most suspicious rows are flagged.
        right: bool `[rows]`, rows that a person called right; they are never changed.
        confirmed: bool `[rows]`, rows that a person called wrong.
    """

    wrong: np.ndarray
    review: int
    right: np.ndarray
    confirmed: np.ndarray


def decide(config: Detection, rows: Ranked, choice: FlagChoice) -> np.ndarray:
    """Decide about every row.

    Rows with a backdoor come first, and in addition to those that the rule chose, unless the rule is `ranking`. Then
    come the rows that the rule chose. Rows within the caps are removed, or relabelled if the suggested label has at
    least the probability `relabel_above`. Rows beyond the caps are left for review.

    Args:
        config: with the rule and the caps.
        rows: what decisions are made from.
        choice: of the rule.

    Returns:
        uint8 `[rows]`, Decisions.
    """
    decision = np.full(len(rows.suspicion), Decision.KEEP, dtype=np.uint8)
    decision[rows.order[: choice.review]] = Decision.REVIEW
    decision[choice.wrong] = Decision.REVIEW
    decision[choice.right] = Decision.KEEP
    decision[rows.poisoned] = Decision.REVIEW
    if config.rule == "ranking":
        return decision
    candidates = np.concatenate([rows.poisoned, choice.wrong])
    changed = within_caps(config, candidates[~choice.right[candidates]], rows.strata)
    decision[changed] = Decision.REMOVE
    if config.relabel_above is not None:
        sure = (rows.relabel_probability[changed] >= config.relabel_above) & ~rows.carriers[changed]
        decision[changed[sure]] = Decision.RELABEL
    return decision


def removable(config: Detection, rows: Ranked) -> np.ndarray:
    """The places of the rows without a backdoor that the caps let be removed, the most suspicious first.

    No cap keeps a row of any first part of this list back, so that a guarantee about this part holds for the rows that
    are removed.
    """
    kept = within_caps(config, np.concatenate([rows.poisoned, rows.order]), rows.strata)
    return kept[~rows.carriers[kept]]


def within_caps(config: Detection, candidates: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The candidates within the cap of their stratum and the total cap; `candidates` are in order of priority.

    Every stratum keeps at least one row, whatever its cap.
    """
    sizes = np.bincount(strata)
    allowed = np.minimum(np.floor(config.max_removed_per_class * sizes).astype(int), sizes - 1)
    of_candidates = strata[candidates]
    order = np.argsort(of_candidates, kind="stable")
    grouped = of_candidates[order]
    before = np.empty(
        len(candidates), dtype=np.int64
    )  # candidates of the same stratum with a higher priority
    before[order] = np.arange(len(candidates)) - np.searchsorted(grouped, grouped)
    kept = candidates[before < allowed[of_candidates]]
    return kept[: int(config.max_removed * len(strata))]
