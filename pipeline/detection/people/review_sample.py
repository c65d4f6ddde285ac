"""The rule `reviewed`: a person's answers on a random sample bound the precision of the rows that are removed.

Cut-offs "the top k candidates" are tested from strict to lax, each at the full level, up to the first that fails
(fixed-sequence testing, as in Angelopoulos et al. 2021, arXiv 2110.01052): the chance that any cut-off is let pass
although its precision is too low is then at most 1 − confidence, however many there are. How many answers a cut-off
takes is settled before the first answer; looking at the results between rounds changes nothing.

Every candidate has a place in one random order. The sample of a cut-off is the first of that order that lie in it:
a simple random sample, which takes over most of its rows from the cut-off before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.stats import binom, hypergeom

from pipeline.seeds import random_state

STEP = 1.2
"""Each cut-off has this many times the rows of the one before; small steps cost hardly more answers."""

RANGE = 16
"""The laxest cut-off has at most this many times the rows of the strictest."""

POWER = 0.9
MOST_ANSWERS = 5000

UNANSWERED, RIGHT, UNSURE, WRONG = range(-1, 3)


@dataclass(frozen=True)
class Plan:
    """What is asked and tested; fixed when the first sheet is written.

    cutoffs: numbers of candidates, ascending; answers: the sample size of each (or all, where it has fewer).
    """

    precision: float
    confidence: float
    cutoffs: tuple[int, ...]
    answers: int
    seed: int

    @property
    def order(self) -> np.ndarray:
        """The candidates up to the last cut-off in random order, int64."""
        return random_state("review", self.seed).permutation(self.cutoffs[-1])

    def sample(self, cutoff: int) -> np.ndarray:
        """The candidates that the test of a cut-off takes, int64."""
        order = self.order
        return order[order < cutoff][: self.answers]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"cutoffs": list(self.cutoffs)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Plan:
        return cls(**tree | {"cutoffs": tuple(tree["cutoffs"])})


@dataclass(frozen=True)
class CutOff:
    """The test of "the top `rows` candidates": of `sampled` rows `answered` have an answer, `wrong` are wrong.

    bound: lower bound of the precision at the plan's confidence, rows without an answer counted as not wrong.
    """

    rows: int
    sampled: int
    answered: int
    wrong: int
    bound: float
    state: Literal["holds", "fails", "open"]


def make_plan(precision: float, confidence: float, flagged: int, candidates: int, seed: int) -> Plan:
    """Cut-offs up to twice the `flagged` rows, within the `candidates` (at least one) that may be removed."""
    answers = answers_per_cutoff(precision, confidence)
    largest = min(candidates, max(2 * flagged, answers))
    smallest = min(largest, max(answers, largest // RANGE))
    steps = int(np.ceil(np.log(largest / smallest) / np.log(STEP)))
    cutoffs = np.unique(np.round(np.geomspace(smallest, largest, steps + 1)).astype(int))
    return Plan(precision, confidence, tuple(cutoffs.tolist()), answers, seed)


def answers_per_cutoff(precision: float, confidence: float) -> int:
    """The fewest answers by which a list is let pass with probability .9 when a third of the wrong flags that
    are allowed are there."""
    numbers = np.arange(1, MOST_ANSWERS)
    critical = binom.isf(1 - confidence, numbers, precision)  # as many wrong rows are one too few
    power = binom.sf(critical, numbers, 1 - (1 - precision) / 3)
    return int(numbers[np.argmax(power >= POWER)]) if (power >= POWER).any() else MOST_ANSWERS


@cache
def lower_bound(rows: int, sampled: int, wrong: int, confidence: float) -> float:
    """Clopper–Pearson's lower bound of the precision of `rows` rows, exact for a sample without replacement.

    The least share w/rows for which `wrong` or more wrong rows in the sample have a chance of 1 − confidence or more
    (hypergeometric; Clopper & Pearson 1934); the plain share when all rows are in the sample.
    """
    # A chance of exactly 1 − confidence counts as not contradicted, however it is rounded.
    contradicted_below = (1 - confidence) * (1 - 1e-9)
    low, high = wrong, rows - (sampled - wrong)
    while low < high:
        middle = (low + high) // 2
        if hypergeom.sf(wrong - 1, rows, middle, sampled) >= contradicted_below:
            high = middle
        else:
            low = middle + 1
    return low / rows


def judge(plan: Plan, verdicts: np.ndarray) -> list[CutOff]:
    """The tests in order, up to and with the first that does not hold.

    verdicts: int8 `[candidates up to the last cut-off]`, UNANSWERED, RIGHT, UNSURE or WRONG; `unsure` counts as not
    wrong. A test is decided before all of its answers are there when no answer can change it any more.
    """
    found: list[CutOff] = []
    for rows in plan.cutoffs:
        given = verdicts[plan.sample(rows)]
        wrong, missing = int((given == WRONG).sum()), int((given == UNANSWERED).sum())
        bound = lower_bound(rows, len(given), wrong, plan.confidence)
        at_best = lower_bound(rows, len(given), wrong + missing, plan.confidence)
        state: Literal["holds", "fails", "open"] = "open"
        if bound >= plan.precision:
            state = "holds"
        elif at_best < plan.precision:
            state = "fails"
        found.append(CutOff(rows, len(given), len(given) - missing, wrong, bound, state))
        if state != "holds":
            break
    return found


def rows_to_remove(cutoffs: list[CutOff]) -> int:
    """The largest number of candidates whose test holds; 0 when none does."""
    return max((cutoff.rows for cutoff in cutoffs if cutoff.state == "holds"), default=0)


def rows_to_ask(plan: Plan, verdicts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """At most `most` candidates without an answer, each with the cut-off whose test needs it first.

    Empty when nothing is left to ask: the last test holds, or one fails.
    """
    tested = judge(plan, verdicts)
    if tested[-1].state != "open":
        return []
    asked: dict[int, int] = {}
    for cutoff in plan.cutoffs[len(tested) - 1 :]:
        for place in plan.sample(cutoff).tolist():
            if verdicts[place] == UNANSWERED:
                asked.setdefault(place, cutoff)
    return list(asked.items())[:most]
