"""Brings people's answers about holdout rows (`winnow review --holdout`) into the measures of the arms."""

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
"""Added to the probability of every label before the given label is ruled out, so that the rest does not sum to 0."""


@dataclass(frozen=True)
class HoldoutAnswers:
    """What people said about the labels of the holdout rows.

    Attributes:
        right: bool `[holdout rows]`, rows whose given label a person called right.
        wrong: bool `[holdout rows]`, rows whose given label a person called wrong.
        labels: int64 `[holdout rows]`, the class that a person named; UNKNOWN if nobody named one.
    """

    right: np.ndarray
    wrong: np.ndarray
    labels: np.ndarray


def read_holdout_answers(run_path: Path, given: np.ndarray) -> HoldoutAnswers | None:
    """Read the answers in `verification.answers`.

    With two classes, a wrong label implies the right one.

    Args:
        run_path: the run directory.
        given: the encoded labels, `[holdout rows]`.

    Returns:
        None if there are no answers, their number of rows differs, or the task is not classification.
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
    """Update the posterior of the holdout labels with people's answers.

    A label that a person named gets probability 1. A label that a person only called wrong gets probability 0.

    Args:
        posterior: float32 `[rows, classes]`.
        given: the encoded labels, `[rows]`.
        answers: for the same rows.

    Returns:
        float32 `[rows, classes]`.
    """
    found = np.array(posterior, dtype=np.float32)
    named = np.flatnonzero(answers.labels != UNKNOWN)
    found[named] = 0
    found[named, answers.labels[named]] = 1
    other = np.flatnonzero(answers.wrong & (answers.labels == UNKNOWN))
    found[other] += EVEN
    found[other, given[other]] = 0
    found[other] /= found[other].sum(1, keepdims=True)
    return found
