"""Multi-label: every label of every row is judged by the recipe, and a row is as suspicious as its worst label.

A row and a label are a pair, and a pair is a question of yes or no: the margin is ±logit, the halves and the neighbours
say how probable the given answer is, and pairs are ranked among all pairs. Harm to the validation loss is a row's and
says nothing of its single labels: it does not count here (average precision on planted digits .96 and .98 without it,
.94 and .98 with; ranking label by label .01 worse, the sum over a row's labels .02 – .07 worse than the worst one).
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
    """Evidence about every label of every row, `[rows, labels]`.

    given: uint8; margin, loss: float32, of the main run early in training; own: float32, probability of the given
    answer, by a training that did not see the row where there are halves; neighbours: float64, vote for the given
    answer minus that for the other; panel: float32, probability of the given answer by the panel, None without one.
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
        """Out of sample: by the panel where there is one, else `own`."""
        return self.own if self.panel is None else self.panel

    @property
    def contradicted(self) -> np.ndarray:
        """bool: the other answer is more probable."""
        return self.judged < 0.5

    @property
    def predicted_sizes(self) -> np.ndarray:
        """int64 `[rows]`: how many labels are more probable than not."""
        return ((self.given == 1) != self.contradicted).sum(1)


def collect_pairs(context: AuditContext, neighbours: np.ndarray, early: int, window: int) -> Pairs:
    """From what the trainings wrote; neighbours: `[rows, labels]`."""
    path, halves = context.run.path, context.config.detection.halves
    given = role_labels(run_data(path), "train").numpy()
    files = [RowsFile(epoch_path(main_directory(path), epoch)) for epoch in range(1, window + 1)]
    margin, loss = of_main_run(files, given, early)
    judged = reading_train(path, window) if halves else reading(files)
    chance = mean_chances(judged, given.shape, window)
    own = np.where(given == 1, chance, 1 - chance)
    return Pairs(given, margin, loss, own, neighbours, halves)


def of_main_run(files: list[RowsFile], given: np.ndarray, early: int) -> tuple[np.ndarray, np.ndarray]:
    """±logit, averaged over the files' epochs, and the loss over the first `early`: float32 `[rows, labels]`."""
    margins, losses = np.empty((2, *given.shape), dtype=np.float32)
    for place in pieces(*given.shape):
        sign = torch.from_numpy(given[place].astype(np.float32) * 2 - 1)
        each = [sign * file.read("logit", place.start, place.stop) for file in files]
        margins[place] = torch.stack(each).mean(0).numpy()
        losses[place] = functional.softplus(-torch.stack(each[:early])).mean(0).numpy()
    return margins, losses


def mean_chances(measurements: Measurements, shape: tuple[int, int], count: int) -> np.ndarray:
    """The probability of every label, averaged over `count` measurements, float32 `[rows, labels]`."""
    chances = np.empty(shape, dtype=np.float32)
    for place in pieces(*shape):
        total = torch.zeros(place.stop - place.start, shape[1])
        for measured in measurements(place):
            total += measured["logit"].sigmoid() / count
        chances[place] = total.numpy()
    return chances


def flipped(given: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """The sets with the most suspicious label turned round, uint8 `[rows, labels]`."""
    suggested = given.copy()
    rows = np.arange(len(given))
    suggested[rows, worst] = 1 - suggested[rows, worst]
    return suggested
