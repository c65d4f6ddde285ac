"""What is held against a target: anchors of the paper and of the prototype, and SOURCE against its rivals.

A difference is ahead or behind where its whole paired interval is. A share is of the truth's ceiling, the most that
the noise of the retrainings lets anybody reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.lds.questions import Asked, Question
from benchmarks.lds.summary import rounded
from pipeline.verification.lds import Estimate, ceiling, lds_score, slope

Row = dict[str, Any]

DEFAULT: Asked = ("source", "tail")
REFINED: Asked = ("source_refined", "tail")
VARIANTS = ("source", "source_3", "fast_source", "source_refined", "source_sgd_formula")
RIVALS = ("influence", "kronfluence_influence", "curvlinops_influence", "tracin", "graddot", "trak")
# Mean validation loss, half of the rows, final weights, one model: the prototype's, and the ceiling it had.
LOSS = {
    "digits": (0.50, 0.96),
    "digits_noisy": (0.82, 0.96),
    "fashion_mnist_noisy": (0.75, 0.80),
    "fashion_mnist": (0.48, 0.72),
}
# Margins, half of the rows, final weights: one model, several.
MARGINS = {"fashion_mnist": (0.44, 0.53)}
NOT_CONVERGED = ("fashion_mnist_noisy", "rotated_fashion_mnist")
SMALL = 0.1
UNROLLED_SHARE = {"digits_noisy": 0.9, "fashion_mnist_noisy": 0.9}
SLOPES = (0.8, 1.4)
CALIBRATED = ("source", "source_refined", "unrolled")
REFINED_LEAD = {"digits": 0.08, "digits_noisy": 0.08}


def targets(asked: Sequence[Question]) -> list[Row]:
    rows: list[Row] = []
    for question in asked:
        rows += anchors(question)
        if question.removed == SMALL:
            rows += small_removals(question)
        else:
            rows += differences(question)
    return rows


def anchors(question: Question) -> Iterator[Row]:
    """LDS of the default and of refined SOURCE, and their shares of the ceiling."""
    if question.point != "final" or question.removed == SMALL:
        return
    for asked in (each for each in (DEFAULT, REFINED) if each in question.predicted):
        if question.kind == "validation_loss" and question.task in LOSS:
            least, theirs = LOSS[question.task]
            yield from reaches(question, asked, False, least, least / theirs)
        if question.kind == "margins" and question.task in MARGINS:
            several = len(question.predicted[asked]) > 1
            for ensembled, least in list(zip((False, True), MARGINS[question.task], strict=True))[
                : 1 + several
            ]:
                yield from reaches(question, asked, ensembled, least, least)


def reaches(question: Question, asked: Asked, ensembled: bool, least: float, share: float) -> Iterator[Row]:
    found = lds_score(question.truth.mean(1), question.of(asked, ensembled))
    yield aim(question, asked, "lds", found, "≥", least, ensembled=ensembled)
    if (of_most := of_ceiling(question, found)) is not None:
        yield aim(question, asked, "share_of_ceiling", of_most, "≥", share, ensembled=ensembled)


def of_ceiling(question: Question, found: Estimate) -> Estimate | None:
    """None where retrainings agree in nothing."""
    best = ceiling(question.truth)
    if best is None or best.value == 0:
        return None
    return Estimate(found.value / best.value, found.low / best.value, found.high / best.value)


def small_removals(question: Question) -> Iterator[Row]:
    """A tenth removed, mean validation loss: exact unrolling, the size of forecasts, and what refining gains."""
    if question.kind != "validation_loss":
        return
    truth = question.truth.mean(1)
    unrolled = ("unrolled", "tail")
    if question.task in UNROLLED_SHARE and unrolled in question.predicted:
        of_most = of_ceiling(question, lds_score(truth, question.predicted[unrolled]))
        if of_most is not None:
            least = UNROLLED_SHARE[question.task]
            yield aim(question, unrolled, "share_of_ceiling", of_most, "≥", least)
    for method in CALIBRATED:
        one = (method, "tail")
        if one in question.predicted:
            found = slope(truth, question.predicted[one])
            yield aim(question, one, "slope", found, "within", SLOPES)
    if question.task in REFINED_LEAD and REFINED in question.predicted:
        lead = question.difference(REFINED, DEFAULT)
        yield compared(question, REFINED, DEFAULT, lead, "≥", REFINED_LEAD[question.task])


def differences(question: Question) -> Iterator[Row]:
    """Half of the rows removed: SOURCE against influence functions, against all rivals, and refined against plain."""
    influence = ("influence", "tail")
    if question.task in NOT_CONVERGED and influence in question.predicted:
        yield compared(question, DEFAULT, influence, question.difference(DEFAULT, influence), "ahead", 0.0)
    best, rival = best_of(question, VARIANTS), best_of(question, RIVALS)
    if best is not None and rival is not None:
        yield compared(question, best, rival, question.difference(best, rival), "not behind", 0.0)
    if REFINED in question.predicted:
        lead = question.difference(REFINED, DEFAULT)
        yield compared(question, REFINED, DEFAULT, lead, "not behind", 0.0)


def best_of(question: Question, methods: Sequence[str]) -> Asked | None:
    truth = question.truth.mean(1)
    values = {
        one: lds_score(truth, predicted).value
        for one, predicted in question.predicted.items()
        if one[0] in methods
    }
    return max(values, key=lambda one: values[one]) if values else None


def aim(
    question: Question,
    asked: Asked,
    metric: str,
    found: Estimate,
    sense: str,
    target: float | tuple[float, float],
    **more: Any,
) -> Row:
    """A figure with its target and whether it is met."""
    met = {
        "≥": lambda least: found.value >= least,
        "within": lambda span: span[0] <= found.value <= span[1],
        "ahead": lambda zero: found.low > zero,
        "not behind": lambda zero: found.high >= zero,
    }[sense](target)
    row = question.row | {"method": asked[0], "at": asked[1], "metric": metric} | rounded(found)
    return row | {"sense": sense, "target": target, "met": bool(met)} | more


def compared(
    question: Question, first: Asked, second: Asked, lead: Estimate, sense: str, target: float
) -> Row:
    against = f"{second[0]} @{second[1]}"
    return aim(question, first, "lds_difference", lead, sense, target, against=against)
