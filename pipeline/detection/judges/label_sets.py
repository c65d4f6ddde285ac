"""Evidence for multi-label tasks: every label of every row is judged, and a row is as suspicious as its worst label.

A row and a label form a pair, and a pair is a question with the answer yes or no. The margin is ±logit, and halves and
neighbours tell how probable the given answer is. Pairs are ranked among all pairs. Harm to the validation loss belongs
to a row and says nothing about its single labels, so that it does not count here. Average precision on planted digits:
.96 and .98 without harm, .94 and .98 with it; ranking label by label is .01 worse, and the sum over a row's labels is
.02 – .07 worse than its worst label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline.detection.judges.halves import Measurements, pieces, reading, reading_train
from pipeline.runs.context import AuditContext
from pipeline.training.dynamics import epoch_path
from pipeline.training.main_run import main_directory, role_labels
from pipeline.training.tensor_file import RowsFile
from pipeline.workers.worker import run_data


@dataclass(frozen=True)
class Pairs:
    """Evidence about every label of every row; arrays are `[rows, labels]`.

    Attributes:
        given: uint8, the given answers.
        margin: float32, of the main run early in training.
        loss: float32, of the main run early in training.
        own: float32, the probability of the given answer, by the half that did not see the row or, without halves, by
            the main run.
        neighbours: float64, the neighbours' vote for the given answer minus that for the other one.
        halves: whether there are halves.
        panel: float32, the probability of the given answer by the panel; None without one.
    """

    given: np.ndarray
    margin: np.ndarray
    loss: np.ndarray
    own: np.ndarray
    neighbours: np.ndarray
    halves: bool
    panel: np.ndarray | None = None

    @property
    def judged(self) -> np.ndarray:
        """The probability of the given answer: by the panel if there is one, else `own`."""
        return self.own if self.panel is None else self.panel

    @property
    def contradicted(self) -> np.ndarray:
        """Pairs whose other answer is more probable, bool."""
        return self.judged < 0.5

    @property
    def predicted_sizes(self) -> np.ndarray:
        """How many labels of each row are more probable than not, int64 `[rows]`."""
        return ((self.given == 1) != self.contradicted).sum(1)


def collect_pairs(context: AuditContext, neighbours: np.ndarray, early: int, window: int) -> Pairs:
    """Collect the evidence from the files of the trainings; `neighbours` is `[rows, labels]`."""
    path, halves = context.run.path, context.config.detection.halves
    given = role_labels(run_data(path), "train").numpy()
    files = [RowsFile(epoch_path(main_directory(path), epoch)) for epoch in range(1, window + 1)]
    margin, loss = of_main_run(files, given, early)
    judged = reading_train(path, window) if halves else reading(files)
    chance = mean_chances(judged, given.shape, window)
    own = np.where(given == 1, chance, 1 - chance)
    return Pairs(given, margin, loss, own, neighbours, halves)


def of_main_run(files: list[RowsFile], given: np.ndarray, early: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of ±logit over all files (epochs) and of the loss over the first `early`, float32 `[rows, labels]`."""
    margins, losses = np.empty((2, *given.shape), dtype=np.float32)
    for place in pieces(*given.shape):
        sign = torch.from_numpy(given[place].astype(np.float32) * 2 - 1)
        each = [sign * file.read("logit", place.start, place.stop) for file in files]
        margins[place] = torch.stack(each).mean(0).numpy()
        losses[place] = functional.softplus(-torch.stack(each[:early])).mean(0).numpy()
    return margins, losses


def mean_chances(measurements: Measurements, shape: tuple[int, int], count: int) -> np.ndarray:
    """The probability of every label, averaged over `count` epochs, float32 `[rows, labels]`."""
    chances = np.empty(shape, dtype=np.float32)
    for place in pieces(*shape):
        total = torch.zeros(place.stop - place.start, shape[1])
        for measured in measurements(place):
            total += measured["logit"].sigmoid() / count
        chances[place] = total.numpy()
    return chances


def flipped(given: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """The given sets with the answer for the most suspicious label flipped, uint8 `[rows, labels]`."""
    suggested = given.copy()
    rows = np.arange(len(given))
    suggested[rows, worst] = 1 - suggested[rows, worst]
    return suggested
