"""The search of one class, from suspect rows to proved patterns."""

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
"""Rows; a smaller class is not searched."""

Threshold = Callable[[Pattern, Evidence, np.ndarray, int], bool]
"""Of a pattern with its evidence, the labels of the rows searched and the target."""

Finder = Callable[[Subject, int, np.ndarray, list[np.ndarray]], Iterable[Pattern]]
"""Of the rows, the target, all suspect rows, and the lists of them by view."""

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
"""What looks for patterns in each input of the model; in others none can be found."""


def candidates(subject: Subject, lists: list[np.ndarray], target: int) -> list[Pattern]:
    """The patterns that suspect rows of the class may share, by every kind that its inputs allow.

    lists: places of suspect rows, one list per view, each the most suspect first.
    """
    seeds = union(lists)
    found: list[Pattern] = []
    for name, finders in FINDERS.items():
        if name in subject.inputs:
            found += [pattern for find in finders for pattern in find(subject, target, seeds, lists)]
    return found


def search_class(subject: Subject, scores: SeedScores, target: int) -> list[Finding]:
    """The class's alarms, the best proved first."""
    if (subject.labels == target).sum() < LEAST_CLASS or (subject.validation_labels != target).sum() == 0:
        return []
    patterns = candidates(subject, seed_lists(subject, scores, target), target)
    return proved(subject, target, patterns, may_be_alarm, is_alarm)


def proved(
    subject: Subject, target: int, patterns: Iterable[Pattern], may_be: Threshold, is_proof: Threshold
) -> list[Finding]:
    """What both thresholds let pass, the best first; the content is estimated only where the cheap one did."""
    findings = []
    for pattern in patterns:
        evidence = pasted(subject, target, pattern)
        if may_be(pattern, evidence, subject.labels, target):
            evidence = with_content(subject, target, pattern, evidence)
            if is_proof(pattern, evidence, subject.labels, target):
                findings.append(Finding(target, pattern, evidence))
    return distinct(findings, subject.labels)
