"""The one place that sets a row's decision, within the caps; counts everywhere come from what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config import Detection
from pipeline.text.decisions import Decision


@dataclass(frozen=True)
class Ranked:
    """What decisions are made from, all `[rows]`.

    suspicion: float64; row_ids: int64, hashes of the row keys, which break ties; strata: int, classes (regression:
    target deciles), each with its own cap; relabel_probability: float64, of the suggested label, NaN without one;
    carriers: bool, the row carries a backdoor.
    """

    suspicion: np.ndarray
    row_ids: np.ndarray
    strata: np.ndarray
    relabel_probability: np.ndarray
    carriers: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Places of the rows that carry no backdoor, the most suspicious first."""
        order = np.lexsort((self.row_ids, -self.suspicion))
        return order[~self.carriers[order]]

    @property
    def poisoned(self) -> np.ndarray:
        """Places of the carriers, the most suspicious first."""
        order = np.lexsort((self.row_ids, -self.suspicion))
        return order[self.carriers[order]]


@dataclass(frozen=True)
class Choice:
    """What a rule makes of the ranking.

    wrong: places of rows to remove, the most pressing first; review: how many of the order are to be looked at;
    right, confirmed: bool `[rows]`, a person says that the row is right (it is never changed) or that it is wrong.
    """

    wrong: np.ndarray
    review: int
    right: np.ndarray
    confirmed: np.ndarray


def decide(config: Detection, rows: Ranked, choice: Choice) -> np.ndarray:
    """The decision of every row, uint8 `[rows]`, a Decision.

    Carriers of a backdoor are a queue of their own: removed first and beyond what the rule chose, unless the rule
    is `ranking`. Then come the rows that the rule chose. What the caps let through is removed, or relabelled where
    the suggested label is at least `relabel_above` probable; what they keep back is to be reviewed.
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
    """Places of the rows without a backdoor that the caps would let go, the most suspicious first.

    Of any head of this list no row is kept back by a cap: what is promised of it holds for what is removed.
    """
    kept = within_caps(config, np.concatenate([rows.poisoned, rows.order]), rows.strata)
    return kept[~rows.carriers[kept]]


def within_caps(config: Detection, candidates: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The candidates, most pressing first, that neither the cap of their stratum nor the total cap keeps back.

    A stratum keeps one row at least, whatever its cap.
    """
    sizes = np.bincount(strata)
    allowed = np.minimum(np.floor(config.max_removed_per_class * sizes).astype(int), sizes - 1)
    of_candidates = strata[candidates]
    order = np.argsort(of_candidates, kind="stable")
    grouped = of_candidates[order]
    before = np.empty(len(candidates), dtype=np.int64)  # candidates of the same stratum that press more
    before[order] = np.arange(len(candidates)) - np.searchsorted(grouped, grouped)
    kept = candidates[before < allowed[of_candidates]]
    return kept[: int(config.max_removed * len(strata))]
