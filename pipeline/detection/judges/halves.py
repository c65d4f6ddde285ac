"""The opinions of the halves: how probable they find the given label of a row, and which label they suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encoded import EncodedData
from pipeline.detection.columns import StoredColumn, columns_directory, slices
from pipeline.training.dynamics import SLICE, epoch_path
from pipeline.training.halves import HALVES, assign_halves, half_directory, merged_halves
from pipeline.training.main_run import main_directory
from pipeline.training.tensor_file import RowsFile
from pipeline.workers.worker import run_config, run_data

MOST_BYTES = 2**26
"""Upper limit for the bytes of probabilities that are held at a time."""

Measurements = Callable[[slice], Iterator[dict[str, Tensor]]]
"""Slice of rows → their dynamics (`training.dynamics`), one dictionary per epoch."""


@dataclass(frozen=True)
class Opinion:
    """The opinion of a training on some rows, averaged over the early window.

    Attributes:
        own: float64 `[rows]`, the probability of the given label; for regression minus the squared error.
        best: the most probable class, int16 or int32 `[rows]`; for regression the predicted target, float64.
        probability: float64 `[rows]`, of the best class, uncalibrated; NaN for regression.
        runner_up: float64 `[rows]`, of the second best class, uncalibrated; NaN for regression.
    """

    own: np.ndarray | StoredColumn
    best: np.ndarray
    probability: np.ndarray
    runner_up: np.ndarray


def out_of_sample(run_path: Path, window: int) -> Opinion:
    """The opinion on every train row of the half that did not see it."""
    return average(run_data(run_path), "train", reading_train(run_path, window), window)


def in_sample(run_path: Path, window: int) -> Opinion:
    """The opinion of the main run on every train row; it stands in if there are no halves."""
    files = [RowsFile(epoch_path(main_directory(run_path), epoch)) for epoch in range(1, window + 1)]
    return average(run_data(run_path), "train", reading(files), window)


def on_validation(run_path: Path, window: int) -> np.ndarray:
    """The best class of every validation row by each half alone, int `[halves, validation rows]`.

    Train rows are also judged by one half each, so that both error rates are comparable.
    """
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
    """The files with the dynamics of a half on a role other than train, one per epoch of the window."""
    directory = half_directory(run_path, half) / role
    return [RowsFile(epoch_path(directory, epoch)) for epoch in range(1, window + 1)]


def reading(files: list[RowsFile]) -> Measurements:
    def measurements(place: slice) -> Iterator[dict[str, Tensor]]:
        for file in files:
            yield {name: file.read(name, place.start, place.stop) for name in file.names}

    return measurements


def pieces(rows: int, outputs: int) -> list[slice]:
    """Slices of rows whose probabilities of all classes fit into MOST_BYTES."""
    return slices(rows, max(1, min(SLICE, MOST_BYTES // (4 * outputs))))


def average(data: EncodedData, role: str, measurements: Measurements, count: int) -> Opinion:
    """The opinion on the rows of a role as the mean over `count` epochs; its `own` is a column on disk."""
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
                own, best[place] = _mean_prediction(measurements(place), place, count)
            yield own

    path = columns_directory(data.run_path) / f"own-{role}"
    return Opinion(StoredColumn.write(path, rows, judged()), best, probability, runner_up)


def mean_probabilities(
    epochs: Iterator[dict[str, Tensor]], place: slice, outputs: int, count: int
) -> tuple[Tensor, np.ndarray]:
    """The mean probabilities of some rows, float32 `[rows, classes]`, and of the given labels, float64 `[rows]`.

    Classes outside the ten best of an epoch count as 0 in it.
    """
    rows = place.stop - place.start
    total = torch.zeros(rows, outputs, dtype=torch.float32)
    own = torch.zeros(rows, dtype=torch.float64)
    for measured in epochs:
        total.scatter_add_(1, measured["top_class"].long(), measured["top_probability"].float())
        own += torch.exp(-measured["loss"].double()) / count
    return total / count, own.numpy()


def _mean_prediction(
    epochs: Iterator[dict[str, Tensor]], place: slice, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The means over epochs of minus the squared error and of the predicted target, float64 `[rows]` each."""
    prediction, error = torch.zeros(2, place.stop - place.start, dtype=torch.float64)
    for measured in epochs:
        prediction += measured["prediction"].double() / count
        error += measured["loss"].double() / count
    return -error.numpy(), prediction.numpy()
