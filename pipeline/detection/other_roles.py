"""Judging validation and holdout rows of one noisy file: by models that were fitted on train rows alone.

Nothing here decides about a train row. A row of another role has the panel's margin, which is compared with the
margins of the train rows out of fold; so its suspicion is on the scale of theirs, and what is removed among them is
removed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config import Detection
from pipeline.detection.decisions import KEEP, RELABEL, REMOVE, REVIEW, within_caps

RULES = ("budget",)
"""Rules whose removals reach other roles; the promises of the others are about train rows."""


@dataclass(frozen=True)
class Cuts:
    """The least suspicion of a train row that the ranking sends to be removed, and to be reviewed; None: of none."""

    remove: float | None
    review: float | None


def cuts_of(suspicion: np.ndarray, decision: np.ndarray, by_ranking: np.ndarray) -> Cuts:
    """by_ranking: bool `[train rows]`, rows without a person's word or a reason of their own."""
    removed = suspicion[by_ranking & np.isin(decision, (REMOVE, RELABEL))]
    flagged = suspicion[by_ranking & (decision != KEEP)]
    return Cuts(
        float(removed.min()) if len(removed) else None, float(flagged.min()) if len(flagged) else None
    )


def suspicion_like_train(
    margin: np.ndarray, train_margin: np.ndarray, train_suspicion: np.ndarray
) -> np.ndarray:
    """float64 `[rows]`: the suspicion of train rows with the same rank of margin, low margins being suspicious.

    margin: `[rows]`; train_margin, train_suspicion: `[train rows]`.
    """
    by_margin, by_suspicion = np.sort(-train_margin), np.sort(train_suspicion)
    rank = np.searchsorted(by_margin, -margin, side="right") / len(by_margin)
    return np.interp(rank, (np.arange(len(by_suspicion)) + 0.5) / len(by_suspicion), by_suspicion)


def decide_role(
    config: Detection,
    suspicion: np.ndarray,
    strata: np.ndarray,
    suggested_probability: np.ndarray,
    removable: np.ndarray,
    cuts: Cuts,
) -> np.ndarray:
    """uint8 `[rows]`: as train rows of the same suspicion were decided, within the same caps.

    strata: classes; suggested_probability: NaN without one; removable: bool `[rows]`, not protected.
    """
    decision = np.full(len(suspicion), KEEP, dtype=np.uint8)
    if cuts.review is not None:
        decision[suspicion >= cuts.review] = REVIEW
    if cuts.remove is None or config.rule not in RULES:
        return decision
    order = np.argsort(-suspicion, kind="stable")
    candidates = order[(suspicion >= cuts.remove)[order] & removable[order]]
    changed = within_caps(config, candidates, strata)
    decision[changed] = REMOVE
    if config.relabel_above is not None:
        decision[changed[suggested_probability[changed] >= config.relabel_above]] = RELABEL
    return decision
