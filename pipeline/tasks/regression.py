"""Regression: a number a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import InputError
from pipeline.features.arrow import is_numeric, numbers
from pipeline.features.faults import Fault, fault_where
from pipeline.features.moments import Moments
from pipeline.tasks.task import Task

FINITE_HINT = "A target has to be a finite number: correct or drop the row."
QUANTILES = 10
"""Strata of the targets."""
OTHER_TARGET = 1.0
"""Standard deviations between two targets from which they contradict each other."""

if TYPE_CHECKING:
    from torch import Tensor


class Regression(Task):
    """Squared error of a standardised target; opinions are such targets, `[rows]`."""

    name = "regression"
    loss = "squared_error"
    metric = "r2"
    label = "a number"
    labels = "numbers"
    alike = "predicted quantiles"
    unit = "loss units"
    lacks = {  # noqa: RUF012
        "training.class_weights": "Leave it out; data.weight gives rows weights of their own.",
        "training.label_smoothing": "Leave it out: only classes can be smoothed.",
    }
    refusal = ("can't be a regression target", "Convert it to float, or set data.task: classification.")

    def codec(self, column: str, of_one: str) -> TargetLabel:
        return TargetLabel(column, of_one)

    def load(self, state: dict[str, Any]) -> TargetLabel:
        return TargetLabel(**state)

    def takes(self, kind: pa.DataType) -> bool:
        return is_numeric(kind)

    def recognises(self, kind: pa.DataType) -> bool:
        return is_numeric(kind) and not pa.types.is_integer(kind)

    def empty_labels(self, rows: int, outputs: int) -> Tensor:  # noqa: ARG002
        import torch

        return torch.empty(rows, dtype=torch.float32)

    def contradict(self, one: Tensor, other: Tensor) -> Tensor:
        return (other - one).abs() > OTHER_TARGET

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The tenth of the targets that a row is in."""
        cuts = np.quantile(labels, np.linspace(0, 1, QUANTILES + 1)[1:-1])
        return np.searchsorted(cuts, labels, side="right").astype(np.int64)

    def constant_loss(self, labels: np.ndarray) -> float:
        return float(labels.var())

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0]

    def score(self, measured: dict[str, Tensor], labels: Tensor) -> float:
        """R²."""
        target = labels.cpu().double()
        residual = (measured["prediction"].double() - target).square().sum()
        return (1 - residual / (target - target.mean()).square().sum().clamp(min=1e-30)).item()

    def opinions_shape(self, rows: int, outputs: int) -> tuple[int, ...]:  # noqa: ARG002
        return (rows,)

    def answers(self, opinions: np.ndarray) -> np.ndarray:
        return np.asarray(opinions)

    def tempered(self, opinions: np.ndarray, temperature: float) -> np.ndarray:  # noqa: ARG002
        return opinions

    def errors(self, opinions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.abs(opinions - labels)

    def mean_opinion(self, opinions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
        return np.average(opinions, axis=0, weights=weights)


REGRESSION = Regression()


@dataclass
class TargetLabel:
    """A number, standardised by mean and standard deviation of the train rows."""

    column: str
    type: str
    mean: float = 0.0
    std: float = 1.0
    outputs: ClassVar[int] = 1
    classes: ClassVar[list[Any]] = []
    class_counts: ClassVar[list[int]] = []

    def __post_init__(self) -> None:
        self.moments = Moments(1)

    def update(self, column: pa.Array, roles: np.ndarray, places: Any) -> list[Fault]:  # noqa: ARG002
        values = numbers(column)
        bad = np.isinf(values)
        self.moments.update(values[(roles == 0) & ~bad, None])
        return fault_where(bad, "is infinite", FINITE_HINT)

    def finish(self) -> None:
        """Fix mean and deviation. Raises InputError when all targets are equal."""
        self.moments.finish()
        self.mean, self.std = float(self.moments.mean[0]), float(self.moments.std[0])
        if self.std == 0:
            raise InputError(
                f"label {self.column!r}: every train row has the target {self.mean:g}",
                "There is nothing to learn: check data.label and the paths.",
            )

    def encode(self, column: pa.Array) -> np.ndarray:
        """Standardised targets, float32 [rows]."""
        return ((numbers(column) - self.mean) / self.std).astype(np.float32)

    def decode(self, targets: np.ndarray) -> pa.Array:
        """Standardised targets [rows] → float64 in the source's unit."""
        return pa.array(targets.astype(np.float64) * self.std + self.mean)
