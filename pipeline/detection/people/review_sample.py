"""The rule `reviewed`: people's answers about a random sample bound the precision of the removed rows.

Cut-offs ("the top k candidates") are tested from strict to lax, each at the full level, up to the first that fails
(fixed-sequence testing, as in Angelopoulos et al. 2021, arXiv 2110.01052). The probability that any cut-off passes with
too low a precision is at most 1 − confidence, whatever the number of cut-offs. The number of answers for a cut-off is
fixed before the first answer, so that looking at results between rounds changes nothing.

All candidates have one random order. The sample of a cut-off consists of its first candidates in this order. This is a
simple random sample, and it shares most of its rows with the sample of the cut-off before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy.stats import binom, hypergeom

from pipeline.seeds import random_state

STEP = 1.2
"""The ratio of rows between a cut-off and the one before; small steps cost hardly more answers."""

RANGE = 16
"""The laxest cut-off has at most this many times the rows of the strictest."""

POWER = 0.9
MOST_ANSWERS = 5000

UNANSWERED, RIGHT, UNSURE, WRONG = range(-1, 3)


@dataclass(frozen=True)
class ReviewPlan:
    """The plan of a review, which is fixed when the first sheet is written.

    Attributes:
        precision: the precision to be shown.
        confidence: of the tests.
        cutoffs: numbers of candidates, ascending.
        answers: the sample size of each cut-off; a smaller cut-off is sampled completely.
        seed: of the random order.
    """

    precision: float
    confidence: float
    cutoffs: tuple[int, ...]
    answers: int
    seed: int

    @property
    def order(self) -> np.ndarray:
        """The candidates of the last cut-off in random order, int64."""
        return random_state("review", self.seed).permutation(self.cutoffs[-1])

    def sample(self, cutoff: int) -> np.ndarray:
        """The sample of a cut-off: candidates, int64."""
        order = self.order
        return order[order < cutoff][: self.answers]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"cutoffs": list(self.cutoffs)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> ReviewPlan:
        return cls(**tree | {"cutoffs": tuple(tree["cutoffs"])})


@dataclass(frozen=True)
class CutOff:
    """The test of a cut-off.

    Attributes:
        rows: how many candidates the cut-off has.
        sampled: how many of them are in its sample.
        answered: how many of these have an answer.
        wrong: how many of these are called wrong.
        bound: lower bound of the precision at the plan's confidence; rows without an answer count as not wrong.
        state: of the test.
    """

    rows: int
    sampled: int
    answered: int
    wrong: int
    bound: float
    state: Literal["holds", "fails", "open"]


def make_plan(precision: float, confidence: float, flagged: int, candidates: int, seed: int) -> ReviewPlan:
    """Make a plan with cut-offs up to twice the number of flagged rows.

    Args:
        precision: the precision to be shown.
        confidence: of the tests.
        flagged: how many rows are flagged.
        candidates: how many rows may be removed, at least 1.
        seed: of the random order.
    """
    answers = answers_per_cutoff(precision, confidence)
    largest = min(candidates, max(2 * flagged, answers))
    smallest = min(largest, max(answers, largest // RANGE))
    steps = int(np.ceil(np.log(largest / smallest) / np.log(STEP)))
    cutoffs = np.unique(np.round(np.geomspace(smallest, largest, steps + 1)).astype(int))
    return ReviewPlan(precision, confidence, tuple(cutoffs.tolist()), answers, seed)


def answers_per_cutoff(precision: float, confidence: float) -> int:
    """The fewest answers with which a list with a third of the allowed false flags passes with probability POWER."""
    numbers = np.arange(1, MOST_ANSWERS)
    critical = binom.isf(
        1 - confidence, numbers, precision
    )  # the largest number of wrong rows that does not pass
    power = binom.sf(critical, numbers, 1 - (1 - precision) / 3)
    return int(numbers[np.argmax(power >= POWER)]) if (power >= POWER).any() else MOST_ANSWERS


@cache
def lower_bound(rows: int, sampled: int, wrong: int, confidence: float) -> float:
    """The Clopper–Pearson lower bound of the precision of a list, exact for a sample without replacement.

    It is the smallest share w/rows for which `wrong` or more wrong rows in the sample have a probability of at least
    1 − confidence (hypergeometric; Clopper & Pearson 1934). If all rows are in the sample, it is the plain share.

    Args:
        rows: length of the list.
        sampled: size of the sample.
        wrong: rows in the sample that are called wrong.
        confidence: of the bound.
    """
    # A probability of exactly 1 − confidence must count as large enough, whatever the rounding.
    contradicted_below = (1 - confidence) * (1 - 1e-9)
    low, high = wrong, rows - (sampled - wrong)
    while low < high:
        middle = (low + high) // 2
        if hypergeom.sf(wrong - 1, rows, middle, sampled) >= contradicted_below:
            high = middle
        else:
            low = middle + 1
    return low / rows


def judge(plan: ReviewPlan, verdicts: np.ndarray) -> list[CutOff]:
    """Run the tests in order, up to and including the first that does not hold.

    A test is decided early if no further answer can change its result.

    Args:
        plan: of the review.
        verdicts: int8 `[candidates of the last cut-off]`, UNANSWERED, RIGHT, UNSURE or WRONG; unsure counts as not
            wrong.
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
    """The largest number of candidates whose test holds; 0 if none does."""
    return max((cutoff.rows for cutoff in cutoffs if cutoff.state == "holds"), default=0)


def rows_to_ask(plan: ReviewPlan, verdicts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """At most `most` candidates that need an answer, each with the first cut-off whose test needs it.

    The list is empty if the last test holds or a test has failed.
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
