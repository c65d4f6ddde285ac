"""The evidence that signals are computed from: files of the audited training, and opinions of the judges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.data.encoded import EncodedData
from pipeline.detection.judges.halves import Opinion, in_sample, out_of_sample
from pipeline.detection.representation.represent import represent
from pipeline.panel.opinions import Panel
from pipeline.runs.context import AuditContext
from pipeline.scoring.attribute import scores_path
from pipeline.workers.worker import run_data


@dataclass(frozen=True)
class Evidence:
    """What is known about the train rows after the audited training.

    Attributes:
        context: the audit; `context.workers` runs tasks over chunks of rows.
        opinion: of the halves, or without halves of the main run; None for sets of labels.
        early: e*, the epoch with the lowest out-of-sample loss.
        window: the number of epochs of the early window.
        represented: the results of `represent`, by name.
    """

    context: AuditContext
    opinion: Opinion | None
    early: int
    window: int
    represented: Mapping[str, np.ndarray]

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.context.run.path

    @property
    def data(self) -> EncodedData:
        return run_data(self.path)

    @property
    def task(self) -> str:
        """`classification`, `regression` or `multilabel`."""
        return self.data.encoding.task

    def score(self, name: str) -> np.ndarray:
        """A column of `scores/`, float64 `[train rows]`."""
        return read_score(self.path, self.data, name)


@dataclass(frozen=True)
class Judged:
    """The opinions of judges about the labels of rows that they have not seen.

    Attributes:
        panel: the opinions of each of its models.
        role: `train`, `validation` or `holdout`.
        labels: encoded labels of the role's rows, `[rows]`, or `[rows, labels]` for sets.
        wrong: the probability that the given label is wrong, float64 `[rows]`; None if it is unknown.
        deviation: the robust deviation of a numeric label from its prediction, float64 `[rows]`; None for other tasks.
        confidence: the probability of the given class by all judges, float64 `[rows]`; None unless a model of the
            user's own has a vote among them.
    """

    panel: Panel
    role: str
    labels: np.ndarray
    wrong: np.ndarray | None = None
    deviation: np.ndarray | None = None
    confidence: np.ndarray | None = None


def gather(context: AuditContext, opinion: Opinion | None) -> Evidence:
    """Collect the evidence of the audited training; the workers compute features of every row for it."""
    return Evidence(context, opinion, *early_window(context), represent(context))


def early_window(context: AuditContext) -> tuple[int, int]:
    """e*, the epoch with the lowest out-of-sample loss, and the length of the early window, at most 2·e* epochs."""
    facts = context.run.facts("train")
    early = int(facts["early_epoch"])
    return early, min(2 * early, int(facts["epochs"]))


def opinion_of(context: AuditContext) -> Opinion:
    """The opinion of the halves, or without halves of the main run, on the train rows in the early window."""
    judge = out_of_sample if context.config.detection.halves else in_sample
    return judge(context.run.path, early_window(context)[1])


def read_score(run_path: Path, data: EncodedData, name: str) -> np.ndarray:
    """A column of `scores/`, float64 `[train rows]`."""
    chunks = data.chunks("train")
    parts = (pq.read_table(scores_path(run_path, chunk), columns=[name])[name].to_numpy() for chunk in chunks)
    values = np.empty(data.count("train"), dtype=np.int64 if name == "row_id" else np.float64)
    for chunk, part in zip(chunks, parts):
        values[chunk.first : chunk.first + chunk.rows] = part
    return values
