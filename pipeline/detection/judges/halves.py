"""What the training on the other half of the rows thinks of each row, and what it suggests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encoded import EncodedData
from pipeline.detection.columns import Column, columns_directory, slices
from pipeline.training.dynamics import SLICE, epoch_path
from pipeline.training.halves import HALVES, assign_halves, half_directory, merged_halves
from pipeline.training.main_run import main_directory
from pipeline.training.tensor_file import RowsFile
from pipeline.workers.worker import run_config, run_data

MOST_BYTES = 2**26
"""Probabilities of all classes that are held at a time."""

Measurements = Callable[[slice], Iterator[dict[str, Tensor]]]
"""Measurements of some rows, as `training.dynamics` writes them, one epoch after the other."""


@dataclass(frozen=True)
class Opinion:
    """What a training makes of rows, averaged over the early window.

    own: float64 `[rows]`, probability of the given label (regression: minus the squared error); best: the most
    probable class, int16 or int32 `[rows]` (regression: the predicted target, float64); probability, runner_up: of
    the best class and of the next, as the training gives them, float64 `[rows]`, NaN in regression.
    """

    own: np.ndarray | Column
    best: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray


def out_of_sample(run_path: Path, window: int) -> Opinion:
    """Every train row judged by the half that did not see it."""
    return average(run_data(run_path), "train", reading_train(run_path, window), window)


def in_sample(run_path: Path, window: int) -> Opinion:
    """Every train row judged by the main run: second best, when there are no halves."""
    files = [RowsFile(epoch_path(main_directory(run_path), epoch)) for epoch in range(1, window + 1)]
    return average(run_data(run_path), "train", reading(files), window)


def on_validation(run_path: Path, window: int) -> np.ndarray:
    """Every validation row judged by each half alone, as train rows are: the best class, int `[halves, rows]`."""
    return np.stack(
        [
            average(
                run_data(run_path),
                "validation",
                reading(role_files(run_path, half, "validation", window)),
                window,
            ).best
            for half in HALVES
        ]
    )


def reading_train(run_path: Path, window: int) -> Measurements:
    halves = assign_halves(run_data(run_path), run_config(run_path).training.seed)

    def measurements(place: slice) -> Iterator[dict[str, Tensor]]:
        for epoch in range(1, window + 1):
            yield merged_halves(run_path, halves, epoch, place.start, place.stop)

    return measurements


def role_files(run_path: Path, half: int, role: str, window: int) -> list[RowsFile]:
    """What a half makes of the rows of another role than train, an epoch each."""
    directory = half_directory(run_path, half) / role
    return [RowsFile(epoch_path(directory, epoch)) for epoch in range(1, window + 1)]


def reading(files: list[RowsFile]) -> Measurements:
    def measurements(place: slice) -> Iterator[dict[str, Tensor]]:
        for file in files:
            yield {name: file.read(name, place.start, place.stop) for name in file.names}

    return measurements


def pieces(rows: int, outputs: int) -> list[slice]:
    """Runs of rows whose probabilities of all classes are held at a time."""
    return slices(rows, max(1, min(SLICE, MOST_BYTES // (4 * outputs))))


def average(data: EncodedData, role: str, measurements: Measurements, count: int) -> Opinion:
    """The mean of `count` measurements of the role's rows; `own` of train rows is left on disk."""
    rows, outputs = data.count(role), data.encoding.outputs
    classification = data.encoding.task == "classification"
    narrow = np.int16 if outputs < 2**15 else np.int32
    best = np.empty(rows, dtype=narrow if classification else np.float64)
    probability, runner_up = np.full((2, rows), np.nan)

    def judged() -> Iterator[np.ndarray]:
        for place in pieces(rows, outputs):
            if classification:
                mean, own = mean_probabilities(measurements(place), place, outputs, count)
                two, classes = mean.topk(2, dim=1)
                best[place] = classes[:, 0].numpy()
                probability[place], runner_up[place] = two.double().numpy().T
            else:
                own, best[place] = mean_prediction(measurements(place), place, count)
            yield own

    path = columns_directory(data.run_path) / f"own-{role}"
    return Opinion(Column.write(path, rows, judged()), best, probability, runner_up)


def mean_probabilities(
    epochs: Iterator[dict[str, Tensor]], place: slice, outputs: int, count: int
) -> tuple[Tensor, np.ndarray]:
    """Probabilities, float32 `[rows, classes]` (0 outside the ten best), and the given label's, float64 `[rows]`."""
    rows = place.stop - place.start
    total = torch.zeros(rows, outputs, dtype=torch.float32)
    own = torch.zeros(rows, dtype=torch.float64)
    for measured in epochs:
        total.scatter_add_(1, measured["top_class"].long(), measured["top_probability"].float())
        own += torch.exp(-measured["loss"].double()) / count
    return total / count, own.numpy()


def mean_prediction(
    epochs: Iterator[dict[str, Tensor]], place: slice, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Minus the squared error, and the predicted target."""
    prediction, error = torch.zeros(2, place.stop - place.start, dtype=torch.float64)
    for measured in epochs:
        prediction += measured["prediction"].double() / count
        error += measured["loss"].double() / count
    return -error.numpy(), prediction.numpy()
