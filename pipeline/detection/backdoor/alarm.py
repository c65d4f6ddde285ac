"""When a pattern is an alarm, what is said of it, and which of several patterns for the same rows is kept."""

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
"""For κ + 2 standard errors: above it, the class itself may explain the pattern."""
MOST_CONTENT_OF_WORDS = 0.15
BY_CHANCE = 0.1
"""Up to this probability of missing it by chance, a pattern that no validation row has counts as absent there."""
NEEDS_CONTENT = ("tokens", "column_values", "column_ranges", "additive")
RARE_RANGE = 0.001
MOST_CONTENT_OF_RANGES = 0.4
LEAST_PURITY_GAIN = 0.5
"""Ranges are chosen among many, and interactions of two columns look like them. So a range has to be less probable in
validation rows than a value, and to lack at least half of the labels that other rows of the data have."""
FOREIGN = 1e-5
"""Up to this probability that validation rows miss it by chance, a pattern is an alarm though the labels are right."""
LEAST_SEPARATION = 6.0
LEAST_BLENDED = 10
MOST_BLENDED = 0.35
"""Share of a blend: more would hide what it is pasted onto, and pasting would prove nothing."""
VAGUE = 0.8
"""What a blend or a range counts against a pattern that says more exactly what it is."""
SAME = 0.5
"""Two patterns are one when they share this much of the smaller one's carriers."""


@dataclass(frozen=True)
class Finding:
    """A pattern that was proved: rows with it become `target`."""

    target: int
    pattern: Pattern
    evidence: Evidence

    @property
    def labels_right(self) -> bool:
        """Whether the carriers look like rows of the class even without the pattern, so that only it was added."""
        content = self.evidence.content
        return content is not None and content[0] - 2 * content[1] > MOST_CONTENT

    def carriers(self, labels: np.ndarray) -> np.ndarray:
        """bool `[rows]`: those with the target's label."""
        return self.evidence.carriers & (labels == self.target)


def is_alarm(pattern: Pattern, evidence: Evidence, labels: np.ndarray, target: int) -> bool:
    """The thresholds of the recipe; labels: int64 `[rows]` of the rows searched."""
    if not may_be_alarm(pattern, evidence, labels, target):
        return False
    if pattern.kind not in NEEDS_CONTENT or contradicts_content(pattern, evidence):
        return True
    return is_foreign(evidence)


def may_be_alarm(pattern: Pattern, evidence: Evidence, labels: np.ndarray, target: int) -> bool:
    """The thresholds that don't ask for the content, which is dear to estimate."""
    carriers = int((evidence.carriers & (labels == target)).sum())
    if evidence.purity < LEAST_PURITY or evidence.flip_rate < LEAST_FLIP[pattern.kind]:
        return False
    if carriers < max(LEAST_CARRIERS, LEAST_SHARE * len(labels)):
        return False
    if pattern.kind == "column_ranges":
        usual = float((labels == target).mean())
        return evidence.purity >= usual + LEAST_PURITY_GAIN * (1 - usual)
    return not isinstance(pattern, Additive) or (carriers >= LEAST_BLENDED and is_blend(pattern))


def is_blend(pattern: Additive) -> bool:
    """Carriers far from the rest of their class, and a picture that leaves room for the content."""
    return pattern.separation >= LEAST_SEPARATION and pattern.gap > 0 and pattern.share <= MOST_BLENDED


def contradicts_content(pattern: Pattern, evidence: Evidence) -> bool:
    """The carriers don't look like the class, and it is not a feature of the class that validation rows have too.

    Where validation rows have it, or few carriers make it likely that they miss it by chance, the carriers may not look
    like the class in the least. A phrase one of whose words goes with the class anyway may be missing in validation
    rows because they come from elsewhere; so may a single word, so that of words κ itself has to be near 0.
    A range has rows of its own in any data: it has to be clearly rarer in validation rows, absent or not.
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


def is_foreign(evidence: Evidence) -> bool:
    """Whether the train rows of the class alone have it, too many for that to be chance: somebody put it there.

    This is what is left to tell of clean-label attacks, whose carriers look like the class since they belong to it.
    """
    return evidence.in_validation == 0 and evidence.natural <= FOREIGN and evidence.purity >= PURE


def distinct(findings: list[Finding], labels: np.ndarray) -> list[Finding]:
    """The best finding of every set of rows; findings that mostly repeat its rows are left out.

    Best is what has almost only rows of the class as carriers and then the most flips times carriers. A blend fits
    patches and a range fits values too, so they have to be better than what says more exactly what the pattern is.
    """

    def worth(finding: Finding) -> tuple[bool, float]:
        flips = finding.evidence.flip_rate * finding.carriers(labels).sum()
        vague = VAGUE if finding.pattern.kind in ("additive", "column_ranges") else 1.0
        return finding.evidence.purity >= PURE, float(vague * flips)

    ranked = sorted(findings, key=worth, reverse=True)
    kept: list[Finding] = []
    for finding in ranked:
        rows = finding.carriers(labels)
        if all(overlap(rows, other.carriers(labels)) < SAME for other in kept):
            kept.append(finding)
    return kept


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum()) / max(1, min(int(one.sum()), int(two.sum())))
