"""What people answered about holdout rows (`winnow review --holdout`), taken into the measures of the arms."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.text.decisions import ANSWERS_RIGHT, ANSWERS_WRONG
from pipeline.workers.worker import run_config, run_data

UNKNOWN = -1
EVEN = 1e-6
"""Added to every label's probability, so that something is left where the given label had all of it."""


@dataclass(frozen=True)
class HoldoutAnswers:
    """right, wrong: bool `[holdout rows]`, what was said of the given label; labels: int64 `[rows]`, the class that a
    person gave, UNKNOWN where none."""

    right: np.ndarray
    wrong: np.ndarray
    labels: np.ndarray


def read_holdout_answers(run_path: Path, given: np.ndarray) -> HoldoutAnswers | None:
    """The answers of `verification.answers`, for classes; None where there are none, or they are about other rows.

    given: encoded labels `[rows]`. With two classes, a wrong label names the right one.
    """
    path, encoding = run_config(run_path).verification.answers, run_data(run_path).encoding
    if path is None or encoding.task != "classification":
        return None
    table = pq.read_table(path, columns=["verdict", "label"], partitioning=None)
    if table.num_rows != len(given):
        return None
    verdicts = np.array([verdict or "" for verdict in table["verdict"].to_pylist()])
    places = {str(value): place for place, value in enumerate(encoding.classes)}
    labels = np.full(len(given), UNKNOWN, dtype=np.int64)
    for row, label in enumerate(table["label"].to_pylist()):
        if label is not None:
            labels[row] = places.get(str(json.loads(label)), UNKNOWN)
    right, wrong = np.isin(verdicts, ANSWERS_RIGHT), np.isin(verdicts, ANSWERS_WRONG)
    if len(encoding.classes) == 2:
        labels[wrong & (labels == UNKNOWN)] = 1 - given[wrong & (labels == UNKNOWN)]
    labels[right] = given[right]
    return HoldoutAnswers(right, wrong, labels)


def with_answers(posterior: np.ndarray, given: np.ndarray, answers: HoldoutAnswers) -> np.ndarray:
    """The posterior `[rows, classes]` with what people said: certain where they named the label, and without the given
    label where they only called it wrong."""
    found = np.array(posterior, dtype=np.float32)
    named = np.flatnonzero(answers.labels != UNKNOWN)
    found[named] = 0
    found[named, answers.labels[named]] = 1
    other = np.flatnonzero(answers.wrong & (answers.labels == UNKNOWN))
    found[other] += EVEN
    found[other, given[other]] = 0
    found[other] /= found[other].sum(1, keepdims=True)
    return found
