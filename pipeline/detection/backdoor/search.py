"""Searches one class: from suspect rows to proved patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pipeline.detection.backdoor.additive import Additive, find_additive
from pipeline.detection.backdoor.alarm import Finding, distinct, is_alarm, may_be_alarm
from pipeline.detection.backdoor.column_ranges import ColumnRanges, find_column_ranges
from pipeline.detection.backdoor.column_values import ColumnValues, find_column_values
from pipeline.detection.backdoor.pattern import Pattern
from pipeline.detection.backdoor.pixels import Pixels, find_pixels
from pipeline.detection.backdoor.seeds import SeedScores, seed_lists, union
from pipeline.detection.backdoor.subject import Subject
from pipeline.detection.backdoor.tokens import Tokens, find_tokens
from pipeline.detection.backdoor.verify import Evidence, pasted, with_content
from pipeline.detection.backdoor.window import Window, find_windows

LEAST_CLASS = 8
"""A class with fewer rows is not searched."""

Threshold = Callable[[Pattern, Evidence, np.ndarray, int], bool]
"""(pattern, its evidence, labels of the searched rows, target) → whether the pattern passes."""

Finder = Callable[[Subject, int, np.ndarray, list[np.ndarray]], Iterable[Pattern]]
"""(rows, target, all suspect rows, lists of suspect rows by view) → patterns."""

KINDS: dict[str, type] = {
    kind.kind: kind for kind in (Window, Pixels, Additive, Tokens, ColumnValues, ColumnRanges)
}


FINDERS: dict[str, tuple[Finder, ...]] = {
    "image": (
        lambda subject, target, seeds, lists: find_windows(subject, target, seeds),
        lambda subject, target, seeds, lists: find_pixels(subject, target, lists),
        lambda subject, target, seeds, lists: find_additive(subject, target, lists),
    ),
    "tokens": (lambda subject, target, seeds, lists: find_tokens(subject, target, seeds),),
    "dense": (
        lambda subject, target, seeds, lists: find_column_values(subject, target, seeds),
        lambda subject, target, seeds, lists: find_column_ranges(subject, target, seeds),
    ),
}
"""Input of the model → the functions that search it for patterns; other inputs are not searched."""


def candidates(subject: Subject, lists: list[np.ndarray], target: int) -> list[Pattern]:
    """The patterns of all kinds that suspect rows of the class may share.

    Args:
        subject: the rows and the model.
        lists: places of suspect rows, one list per view, most suspect first.
        target: the class.
    """
    seeds = union(lists)
    found: list[Pattern] = []
    for name, finders in FINDERS.items():
        if name in subject.inputs:
            found += [pattern for find in finders for pattern in find(subject, target, seeds, lists)]
    return found


def search_class(subject: Subject, scores: SeedScores, target: int) -> list[Finding]:
    """The alarms of a class, best proof first."""
    if (subject.labels == target).sum() < LEAST_CLASS or (subject.validation_labels != target).sum() == 0:
        return []
    patterns = candidates(subject, seed_lists(subject, scores, target), target)
    return proved(subject, target, patterns, may_be_alarm, is_alarm)


def proved(
    subject: Subject, target: int, patterns: Iterable[Pattern], may_be: Threshold, is_proof: Threshold
) -> list[Finding]:
    """The patterns that pass both thresholds, best first.

    The content of a pattern, which `is_proof` needs, is only estimated if `may_be` lets the pattern pass.
    """
    findings = []
    for pattern in patterns:
        evidence = pasted(subject, target, pattern)
        if may_be(pattern, evidence, subject.labels, target):
            evidence = with_content(subject, target, pattern, evidence)
            if is_proof(pattern, evidence, subject.labels, target):
                findings.append(Finding(target, pattern, evidence))
    return distinct(findings, subject.labels)
