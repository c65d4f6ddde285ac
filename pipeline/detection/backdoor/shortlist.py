"""From many sets of items to the few patterns that are worth a content test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from scipy import sparse

from pipeline.detection.backdoor.items import LEAST_COUNT, ItemSet, complete, having
from pipeline.detection.backdoor.pattern import Pattern
from pipeline.detection.backdoor.subject import Subject

Made = TypeVar("Made", bound=Pattern)

QUICK_VICTIMS = 50
LEAST_FLIP = 0.3
LEAST_PURITY = 0.6
ENOUGH = 0.85
SHORTLIST = 6


def shortlist(
    subject: Subject,
    target: int,
    incidence: sparse.csr_matrix,
    candidates: list[ItemSet],
    own_share: np.ndarray,
    make: Callable[[ItemSet], Made],
) -> list[Made]:
    """The patterns that flip and whose carriers lie among other classes, the most contradictory first.

    own_share: float32 `[rows]`, the share of a row's neighbours that have its label (see `blind`).
    """
    own = subject.labels == target
    ranked = rank(subject, target, incidence, candidates, own_share, make)
    chosen = ranked[:SHORTLIST]
    completed = [complete(incidence, items, own) for items in chosen]
    return [make(items) for items in dict.fromkeys([*chosen, *completed])]


def rank(
    subject: Subject,
    target: int,
    incidence: sparse.csr_matrix,
    candidates: list[ItemSet],
    own_share: np.ndarray,
    make: Callable[[ItemSet], Made],
) -> list[ItemSet]:
    """By flips, less the share of the carriers' neighbours that bear their label out.

    A set is left out when a part of it proves (flips · purity) almost as much.
    """
    own, victims = subject.labels == target, subject.victims(target, QUICK_VICTIMS)
    tried: dict[ItemSet, tuple[float, float]] = {}
    for items in sorted(candidates, key=len):
        carriers = having(incidence, items)
        inside = carriers & own
        if inside.sum() < LEAST_COUNT or own[carriers].mean() < LEAST_PURITY:
            continue
        pattern = make(items)
        flips = subject.flip_rate(victims, pattern.paste, pattern.input)
        if flips >= LEAST_FLIP:
            tried[items] = flips * float(own[carriers].mean()), flips - float(own_share[inside].mean())
    return [
        items
        for items, (proof, _) in sorted(tried.items(), key=lambda entry: (-entry[1][1], entry[0]))
        if not any(tried[part][0] >= ENOUGH * proof for part in tried if set(part) < set(items))
    ]
