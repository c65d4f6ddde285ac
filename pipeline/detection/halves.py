"""Signal: what the training on the other half thinks of a row (low confidence is suspicious), and what it suggests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.compute.worker import run_config, run_data
from pipeline.data.encoded import EncodedData
from pipeline.detection.combination import Signal
from pipeline.training.dynamics import read_epoch
from pipeline.training.halves import HALVES, half_directory, merged_halves
from pipeline.training.main_run import main_directory, role_labels


@dataclass(frozen=True)
class Opinion:
    """What a training makes of rows, averaged over the early window.

    own: float64 `[rows]`, probability of the given label (regression: minus the squared error); best: the most
    probable class, int64 `[rows]` (regression: the predicted target, float64); probability: of the best class,
    float64 `[rows]`, NaN in regression.
    """

    own: np.ndarray
    best: np.ndarray
    probability: np.ndarray


def half_confidence(opinion: Opinion) -> Signal:
    return Signal("half_confidence", opinion.own, False, "what a model that never saw the row thinks of its label")


def out_of_sample(run_path: Path, window: int) -> Opinion:
    """Every train row judged by the half that did not see it."""
    data, seed = run_data(run_path), run_config(run_path).training.seed
    epochs = (merged_halves(data, seed, epoch) for epoch in range(1, window + 1))
    return average(data, "train", epochs, window)


def in_sample(run_path: Path, window: int) -> Opinion:
    """Every train row judged by the main run: second best, when there are no halves."""
    directory = main_directory(run_path)
    epochs = (read_epoch(directory, epoch) for epoch in range(1, window + 1))
    return average(run_data(run_path), "train", epochs, window)


def on_validation(run_path: Path, window: int) -> Opinion:
    """Every validation row judged by both halves."""
    epochs = (
        read_epoch(half_directory(run_path, half) / "validation", epoch)
        for epoch in range(1, window + 1)
        for half in HALVES
    )
    return average(run_data(run_path), "validation", epochs, len(HALVES) * window)


def average(data: EncodedData, role: str, epochs: Iterable[dict[str, Tensor]], count: int) -> Opinion:
    """The mean of `count` measurements of the role's rows, as `training.dynamics` writes them."""
    labels = role_labels(data, role)
    if data.encoding.task == "regression":
        prediction = torch.zeros(len(labels), dtype=torch.float64)
        error = torch.zeros(len(labels), dtype=torch.float64)
        for measured in epochs:
            prediction += measured["prediction"].double() / count
            error += measured["loss"].double() / count
        return Opinion(-error.numpy(), prediction.numpy(), np.full(len(labels), np.nan))
    total = torch.zeros(len(labels), data.encoding.outputs, dtype=torch.float32)
    own = torch.zeros(len(labels), dtype=torch.float64)
    for measured in epochs:
        add_probabilities(total, measured)
        own += torch.exp(-measured["loss"].double()) / count
    probability, best = (total / count).max(1)
    return Opinion(own.numpy(), best.numpy(), probability.double().numpy())


def add_probabilities(total: Tensor, measured: dict[str, Tensor]) -> None:
    total.scatter_add_(1, measured["top_class"].long(), measured["top_probability"].float())
