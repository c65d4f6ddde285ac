"""Predictions beside the truth: the rows of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.lds.predictions import KINDS, METHODS
from benchmarks.lds.tasks import Data, Task
from benchmarks.lds.truth import POINTS, read_truth, removed_rows
from pipeline.verification.lds import Estimate, ceiling, lds_score, predicted_change, slope

MEASURED = {"margins": "margins", "validation_loss": "loss"}
Row = dict[str, Any]
Scores = dict[tuple[str, str, str], np.ndarray]


def summarise(name: str, task: Task, data: Data, removed: float, bases: Sequence[Scores]) -> list[Row]:
    """One row per question, method and figure; `bases` are the scores of each base model."""
    truth = read_truth(name, task, removed)
    if not truth:
        return []
    masks = np.stack([removed_rows(data, removed, mask) for mask in range(task.removals[removed].masks)])
    rows = []
    for kind in KINDS:
        for point in POINTS:
            measured = truth[f"{MEASURED[kind]}_{point}"]
            measured = measured.reshape(*measured.shape[:2], -1)
            common = {"query": kind, "removed": removed, "truth": point, "retrainings": measured.shape[1]}
            common |= {"task": name, "n": len(masks)}
            best = ceiling(measured)
            if best is not None:
                rows.append(common | {"method": "truth", "metric": "ceiling"} | rounded(best))
            rows += compared(common, kind, measured.mean(1), masks, bases)
    return rows


def compared(
    common: Row, kind: str, truth: np.ndarray, masks: np.ndarray, bases: Sequence[Scores]
) -> list[Row]:
    """LDS and slope of every method that all base models have: of single models, and of their scores' mean."""
    rows = []
    shared = [key for key in bases[0] if key[1] == kind and all(key in base for base in bases)]
    for key in shared:
        single = np.stack([base[key] for base in bases])
        for ensembled in (False, True) if len(bases) > 1 else (False,):
            used = single.mean(0, keepdims=True) if ensembled else single
            predicted = np.stack([predicted_change(one, masks) for one in used])
            facts = common | {"method": key[0], "at": key[2], "ensembled": ensembled, "models": len(bases)}
            facts |= METHODS[key[0]].facts
            rows += [
                facts | {"metric": "lds"} | rounded(lds_score(truth, predicted)),
                facts | {"metric": "slope"} | rounded(slope(truth, predicted)),
            ]
    return rows


def rounded(estimate: Estimate) -> dict[str, float]:
    return {name: round(value, 4) for name, value in estimate.as_json().items()}
