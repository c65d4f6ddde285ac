"""Decides which patterns are alarms, and which of several patterns for the same rows is kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.detection.backdoor.additive import Additive
from pipeline.detection.backdoor.pattern import Pattern
from pipeline.detection.backdoor.verify import UNNATURAL, Evidence, is_natural

LEAST_PURITY = 0.8
PURE = 0.95
LEAST_CARRIERS = 8
LEAST_SHARE = 0.0025
LEAST_FLIP = {
    "window": 0.4,
    "pixels": 0.4,
    "tokens": 0.3,
    "column_values": 0.3,
    "column_ranges": 0.3,
    "additive": 0.3,
}
MOST_CONTENT = 0.5
"""If κ + 2 standard errors exceeds this, the class itself may explain the pattern."""
MOST_CONTENT_OF_WORDS = 0.15
BY_CHANCE = 0.1
"""A pattern that no validation row has counts as absent if the probability of missing it by chance is at most this."""
NEEDS_CONTENT = ("tokens", "column_values", "column_ranges", "additive")
RARE_RANGE = 0.001
MOST_CONTENT_OF_RANGES = 0.4
LEAST_PURITY_GAIN = 0.5
"""A range is chosen among many, and interactions of two columns look like one. So a range must be less probable in
validation rows than a value, and its carriers must lack at least this share of the other labels that rows usually
have."""
FOREIGN = 1e-5
"""A pattern whose labels are right is an alarm if the probability that validation rows miss it by chance is at most
this."""
LEAST_SEPARATION = 6.0
LEAST_BLENDED = 10
MOST_BLENDED = 0.35
"""Upper limit for the share of a blend; more would hide the image below it, so that pasting would prove nothing."""
VAGUE = 0.8
"""The factor on the value of a blend or a range when it competes with a more specific pattern."""
SAME = 0.5
"""Two patterns are the same if they share at least this part of the smaller one's carriers."""


@dataclass(frozen=True)
class Finding:
    """A pattern with its proof; the model predicts `target` for rows with the pattern."""

    target: int
    pattern: Pattern
    evidence: Evidence

    @property
    def labels_right(self) -> bool:
        """Whether the carriers look like rows of the class without the pattern, so that only the pattern was added."""
        content = self.evidence.content
        return content is not None and content[0] - 2 * content[1] > MOST_CONTENT

    def carriers(self, labels: np.ndarray) -> np.ndarray:
        """The carriers that have the target's label, bool `[rows]`."""
        return self.evidence.carriers & (labels == self.target)


def is_alarm(pattern: Pattern, evidence: Evidence, labels: np.ndarray, target: int) -> bool:
    """Whether a pattern is an alarm by all thresholds; `labels` are those of the searched rows, int64 `[rows]`."""
    if not may_be_alarm(pattern, evidence, labels, target):
        return False
    if pattern.kind not in NEEDS_CONTENT or _contradicts_content(pattern, evidence):
        return True
    return _is_foreign(evidence)


def may_be_alarm(pattern: Pattern, evidence: Evidence, labels: np.ndarray, target: int) -> bool:
    """Whether a pattern passes the thresholds that do not need its content, which is expensive to estimate."""
    carriers = int((evidence.carriers & (labels == target)).sum())
    if evidence.purity < LEAST_PURITY or evidence.flip_rate < LEAST_FLIP[pattern.kind]:
        return False
    if carriers < max(LEAST_CARRIERS, LEAST_SHARE * len(labels)):
        return False
    if pattern.kind == "column_ranges":
        usual = float((labels == target).mean())
        return evidence.purity >= usual + LEAST_PURITY_GAIN * (1 - usual)
    return not isinstance(pattern, Additive) or (carriers >= LEAST_BLENDED and _is_blend(pattern))


def _is_blend(pattern: Additive) -> bool:
    """Whether the carriers lie far from the rest of their class, and the added picture leaves room for the content."""
    return pattern.separation >= LEAST_SEPARATION and pattern.gap > 0 and pattern.share <= MOST_BLENDED


def _contradicts_content(pattern: Pattern, evidence: Evidence) -> bool:
    """Whether the content of the carriers differs from the class, and the pattern is no natural feature of the class.

    If validation rows have the pattern, or may miss it by chance because it has few carriers, the carriers must not
    resemble the class at all. A phrase with a word that belongs to the class may be missing in validation rows because
    these come from elsewhere. The same holds for a single word, so that for words κ itself must be near 0. A range has
    carriers in any data; it must be clearly rarer in validation rows.
    """
    natural = evidence.natural_part or is_natural(evidence.in_validation, evidence.natural)
    if evidence.content is None or natural:
        return False
    value, error = evidence.content
    if pattern.kind == "column_ranges":
        rare = evidence.natural <= (RARE_RANGE if value + 2 * error > 0 else UNNATURAL)
        return rare and value + 2 * error <= MOST_CONTENT_OF_RANGES
    if pattern.kind == "tokens" and value > MOST_CONTENT_OF_WORDS:
        return False
    absent = evidence.in_validation == 0 and evidence.natural <= BY_CHANCE
    return value + 2 * error <= (MOST_CONTENT if absent else 0.0)


def _is_foreign(evidence: Evidence) -> bool:
    """Whether only train rows of the class have the pattern, too many for chance, so that somebody must have added it.

    This is the only evidence of clean-label attacks, whose carriers belong to the class and look like it.
    """
    return evidence.in_validation == 0 and evidence.natural <= FOREIGN and evidence.purity >= PURE


def distinct(findings: list[Finding], labels: np.ndarray) -> list[Finding]:
    """The best finding for every set of rows; findings that mostly repeat the rows of a better one are left out.

    Findings whose carriers are almost only rows of the class come first, then those with the most flips times carriers.
    A blend also fits patches and a range also fits values, so that both must exceed more specific patterns by a factor.
    """

    def worth(finding: Finding) -> tuple[bool, float]:
        flips = finding.evidence.flip_rate * finding.carriers(labels).sum()
        vague = VAGUE if finding.pattern.kind in ("additive", "column_ranges") else 1.0
        return finding.evidence.purity >= PURE, float(vague * flips)

    ranked = sorted(findings, key=worth, reverse=True)
    kept: list[Finding] = []
    for finding in ranked:
        rows = finding.carriers(labels)
        if all(_overlap(rows, other.carriers(labels)) < SAME for other in kept):
            kept.append(finding)
    return kept


def _overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum()) / max(1, min(int(one.sum()), int(two.sum())))
