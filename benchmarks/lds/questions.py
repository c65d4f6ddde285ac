"""What is asked of a task: measured changes, and what every method predicts for the same masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.lds.bases import KINDS
from benchmarks.lds.predictions import METHODS, Scores
from benchmarks.lds.tasks import Task
from benchmarks.lds.truth import POINTS, read_truth, removed_rows
from pipeline.seeds import random_state
from pipeline.verification.lds import LEVELS, Estimate, pearson, predicted_change, ranks

MEASURED = {"margins": "margins", "validation_loss": "loss"}
RESAMPLES = 200
# A method and where its query's gradient is taken.
Asked = tuple[str, str]


@dataclass(frozen=True)
class Question:
    """One share of the rows removed, one kind of query, measured at one point.

    Attributes:
        task, kind, removed, point: names as in the results' rows.
        truth: float64 `[masks, retrainings, queries]`.
        predicted: by method, `[models, masks, queries]`; of some methods the first models only.
    """

    task: str
    kind: str
    removed: float
    point: str
    truth: np.ndarray
    predicted: dict[Asked, np.ndarray]

    @property
    def row(self) -> dict[str, Any]:
        """What the rows of results about it have in common."""
        return {
            "task": self.task,
            "query": self.kind,
            "removed": self.removed,
            "truth": self.point,
            "retrainings": self.truth.shape[1],
            "n": self.truth.shape[0],
        }

    def of(self, asked: Asked, ensembled: bool) -> np.ndarray:
        """Predictions of every model, or the one of all models' mean scores."""
        single = self.predicted[asked]
        return single.mean(0, keepdims=True) if ensembled else single

    def difference(self, first: Asked, second: Asked) -> Estimate:
        """LDS of one method minus that of another, of single models.

        Masks, queries and models are drawn anew for the interval, the same for both.
        """
        mean = ranks(self.truth.mean(1))
        both = [ranks(self.predicted[one]) for one in (first, second)]

        def of_some(models: np.ndarray, masks: np.ndarray, queries: np.ndarray) -> float:
            real = mean[masks][:, queries]
            a, b = (pearson(real, each[models][:, masks][..., queries]) for each in both)
            return float((a - b).mean())

        models = min(len(self.predicted[first]), len(self.predicted[second]))
        return paired_bootstrap(of_some, (models, *mean.shape))


def paired_bootstrap(figure: Callable[..., float], sizes: Sequence[int]) -> Estimate:
    """A figure of places in several dimensions, with percentiles over drawing the places of each anew."""
    state = random_state("lds differences")
    drawn = [figure(*(state.randint(0, size, size) for size in sizes)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, LEVELS)
    return Estimate(figure(*map(np.arange, sizes)), float(low), float(high))


def questions(name: str, task: Task, stages: np.ndarray, bases: Sequence[Scores]) -> Iterator[Question]:
    """All that the retrainings so far can answer; methods are those that the first base model has."""
    for removed, planned in task.removals.items():
        truth = read_truth(name, task, removed)
        if not truth:
            continue
        masks = np.stack(
            [removed_rows(stages, removed, mask, planned.masks) for mask in range(planned.masks)]
        )
        for kind in KINDS:
            predicted = {
                (method, at): np.stack(
                    [
                        predicted_change(base[method, kind, at], masks)
                        for base in bases
                        if (method, kind, at) in base
                    ]
                )
                for method in METHODS
                for at in POINTS
                if (method, kind, at) in bases[0]
            }
            for point in POINTS:
                measured = truth[f"{MEASURED[kind]}_{point}"]
                measured = measured.reshape(*measured.shape[:2], -1)
                yield Question(name, kind, removed, point, measured, predicted)
