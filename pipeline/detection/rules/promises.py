"""The promise of each rule: what it guarantees about the removed rows, and under which assumption, in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import Detection
from pipeline.detection.people.review_sample import CutOff, rows_to_remove
from pipeline.detection.rules.trusted import TrustedFlags
from pipeline.text import words

UNKNOWN = "precision of the flags: unknown; only a person's answers on a sample can state it (winnow review)"
CANDIDATES = "The promise is about suspicious labels; rows that carry a backdoor have a search of their own."


@dataclass(frozen=True)
class Promise:
    """What a rule guarantees about the removed rows.

    Attributes:
        rule: its name.
        text: the guarantee, for people.
        assumption: under which it holds, for people.
        abstains: whether the rule can't guarantee what the config asks for, and removes nothing.
        precision, confidence, false_flag_rate: guaranteed shares; None if there is no such guarantee.
    """

    rule: str
    text: str
    assumption: str
    abstains: bool = False
    precision: float | None = None
    confidence: float | None = None
    false_flag_rate: float | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def share(value: float) -> str:
    return f"{100 * value:.4g} %"


def of_ranking() -> Promise:
    return Promise(
        "ranking",
        f"nothing is removed, the rows to review are a queue; {UNKNOWN}",
        "None: the order alone is claimed.",
    )


def of_budget(config: Detection) -> Promise:
    return Promise(
        "budget",
        f"at most {share(config.max_removed)} of the rows and {share(config.max_removed_per_class)} of a class are "
        f"removed; {UNKNOWN}",
        "None: no error rate is promised. Whether removing the rows helps is for the retraining to show.",
    )


def of_trusted(config: Detection, flags: TrustedFlags) -> Promise:
    rate = config.false_flag_rate
    if flags.abstains:
        return Promise(
            "trusted",
            f"no promise, nothing is removed: {words.plural(flags.used, 'trusted row')}, and at least {flags.needed:,} "
            f"are needed for a false-flag rate of {share(rate)}",
            "More trusted rows, or a higher detection.false_flag_rate.",
            abstains=True,
        )
    where = "in each class" if flags.by_class else "over all classes together"
    drawn = (
        "within each class, the trusted rows are like the right rows of the train set"
        if flags.by_class
        else "the trusted rows are like the right rows of the train set, classes in the same proportions"
    )
    return Promise(
        "trusted",
        f"on average at most {share(rate)} of the right rows are flagged, {where}, by "
        f"{words.plural(flags.used, 'trusted row')}; which share of the flags is wrong is not promised",
        f"Holds on average over draws of trusted rows, if {drawn}: as good as drawn at random, not chosen for being "
        f"easy. {CANDIDATES}",
        false_flag_rate=rate,
    )


def of_reviewed(config: Detection, cutoffs: list[CutOff]) -> Promise:
    removed, last = rows_to_remove(cutoffs), cutoffs[-1]
    asked = f"{share(config.precision)} with {share(config.confidence)} confidence"
    if not removed:
        why = (
            "more answers are needed"
            if last.state == "open"
            else "too many of the sampled rows are not wrong"
        )
        return Promise(
            "reviewed",
            f"no promise, nothing is removed but what the reviewer called wrong: a precision of {asked} can't be "
            f"stated for the top {last.rows:,} candidates ({last.wrong} of {last.answered} answers are `wrong`; {why})",
            "winnow review says which answers are missing.",
            abstains=True,
        )
    held = next(cutoff for cutoff in cutoffs if cutoff.rows == removed)
    return Promise(
        "reviewed",
        f"precision of the flags: at least {asked}, for the top {removed:,} candidates "
        f"({held.wrong} of {held.answered} answers are `wrong`)",
        "If the reviewer's verdicts are right and every row was answered for itself; `unsure` counts as not wrong. "
        f"{CANDIDATES}",
        precision=config.precision,
        confidence=config.confidence,
    )
