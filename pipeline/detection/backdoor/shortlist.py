"""Selects from many sets of items the few patterns that are worth a content test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from scipy import sparse

from pipeline.detection.backdoor.item_sets import LEAST_COUNT, ItemSet, complete, having
from pipeline.detection.backdoor.pattern import Pattern
from pipeline.detection.backdoor.subject import Subject
from pipeline.detection.backdoor.verify import UNNATURAL, in_validation, is_natural

Made = TypeVar("Made", bound=Pattern)

QUICK_VICTIMS = 50
LEAST_FLIP = 0.2
LEAST_PURITY = 0.6
ENOUGH = 0.85
SHORTLIST = 6


def shortlist(
    subject: Subject,
    target: int,
    incidence: sparse.csr_matrix,
    candidates: list[ItemSet],
    make: Callable[[ItemSet], Made],
) -> list[Made]:
    """The patterns that flip most and that are no features of the class in validation rows."""
    own = subject.labels == target
    ranked = rank(subject, target, incidence, candidates, make)
    chosen = ranked[:SHORTLIST]
    completed = [complete(incidence, items, own) for items in chosen]
    return [make(items) for items in dict.fromkeys([*chosen, *completed])]


def rank(
    subject: Subject,
    target: int,
    incidence: sparse.csr_matrix,
    candidates: list[ItemSet],
    make: Callable[[ItemSet], Made],
) -> list[ItemSet]:
    """Order sets of items: those that are no natural features by the validation rows first, then by flips · purity.

    A set is left out if a part of it has almost the same value.
    """
    own, victims = subject.labels == target, subject.victims(target, QUICK_VICTIMS)
    proofs: dict[ItemSet, float] = {}
    undecided: dict[ItemSet, bool] = {}
    for items in sorted(candidates, key=len):
        carriers = having(incidence, items)
        if (carriers & own).sum() < LEAST_COUNT or own[carriers].mean() < LEAST_PURITY:
            continue
        pattern = make(items)
        seen, natural = in_validation(subject, target, pattern, carriers)
        if is_natural(seen, natural):
            continue
        flips = subject.flip_rate(victims, pattern.paste, pattern.input)
        if flips >= LEAST_FLIP:
            proofs[items] = flips * float(own[carriers].mean())
            undecided[items] = natural > UNNATURAL
    return [
        items
        for items, proof in sorted(
            proofs.items(), key=lambda entry: (undecided[entry[0]], -entry[1], entry[0])
        )
        if not any(proofs[part] >= ENOUGH * proof for part in proofs if set(part) < set(items))
    ]
