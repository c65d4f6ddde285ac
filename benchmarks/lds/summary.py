"""Predictions beside the truth: the rows of the results."""

from __future__ import annotations

from typing import Any

from benchmarks.lds.predictions import METHODS
from benchmarks.lds.questions import Question
from pipeline.verification.lds import Estimate, ceiling, lds_score, slope

Row = dict[str, Any]


def summarise(question: Question) -> list[Row]:
    """The truth's ceiling, and LDS and slope of every method: of single models, and of their scores' mean."""
    rows = []
    best = ceiling(question.truth)
    if best is not None:
        rows.append(question.row | {"method": "truth", "metric": "ceiling"} | rounded(best))
    truth = question.truth.mean(1)
    for asked, single in question.predicted.items():
        for ensembled in (False, True) if len(single) > 1 else (False,):
            predicted = question.of(asked, ensembled)
            facts = question.row | {"method": asked[0], "at": asked[1], "ensembled": ensembled}
            facts |= {"models": len(single)} | METHODS[asked[0]].facts
            rows += [
                facts | {"metric": "lds"} | rounded(lds_score(truth, predicted)),
                facts | {"metric": "slope"} | rounded(slope(truth, predicted)),
            ]
    return rows


def rounded(estimate: Estimate) -> Row:
    return {name: round(value, 4) for name, value in estimate.as_json().items()}
