"""The one rule that sets a row's decision; counts everywhere come from what it says."""

from __future__ import annotations

import numpy as np

from pipeline.config import Detection
from pipeline.detection.counts import Counts

DECISIONS = ("keep", "review", "remove", "relabel")
KEEP, REVIEW, REMOVE, RELABEL = range(len(DECISIONS))


def decide(
    config: Detection,
    suspicion: np.ndarray,
    row_ids: np.ndarray,
    strata: np.ndarray,
    counts: Counts,
    relabel_probability: np.ndarray,
    carriers: np.ndarray | None = None,
) -> np.ndarray:
    """The decision of every row, uint8 `[rows]`, a place in DECISIONS.

    In the order of suspicion (ties by the hash of the row key) the first `counts.likely_wrong` rows are removed, or
    relabelled where `relabel_probability` (NaN: no suggestion) reaches `relabel_above`; those that a cap keeps back
    and the next rows up to `counts.review` are to be reviewed. strata: int `[rows]`, classes (regression: target
    deciles), each with its own cap. With rule `ranking` nothing is removed.

    carriers (bool `[rows]`) of a backdoor are a queue of their own: removed first, within the same caps and beyond the
    counts; what the caps or the rule `ranking` keep back is to be reviewed.
    """
    order = np.lexsort((row_ids, -suspicion))
    decision = np.full(len(suspicion), KEEP, dtype=np.uint8)
    poisoned = order[:0] if carriers is None else order[carriers[order]]
    if carriers is not None:
        order = order[~carriers[order]]
    decision[order[: counts.review]] = REVIEW
    decision[poisoned] = REVIEW
    if config.rule == "ranking":
        return decision
    wrong = order[: counts.likely_wrong]
    if config.relabel_above is not None:
        sure = relabel_probability[wrong] >= config.relabel_above
        decision[wrong[sure]] = RELABEL
        wrong = wrong[~sure]
    decision[within_caps(config, np.concatenate([poisoned, wrong]), strata)] = REMOVE
    return decision


def within_caps(config: Detection, candidates: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """The candidates, most pressing first, that neither the cap of their stratum nor the total cap keeps back."""
    allowed = np.floor(config.max_removed_per_class * np.bincount(strata)).astype(int)
    of_candidates = strata[candidates]
    order = np.argsort(of_candidates, kind="stable")
    grouped = of_candidates[order]
    before = np.empty(len(candidates), dtype=np.int64)  # candidates of the same stratum that press more
    before[order] = np.arange(len(candidates)) - np.searchsorted(grouped, grouped)
    kept = candidates[before < allowed[of_candidates]]
    return kept[: int(config.max_removed * len(strata))]
