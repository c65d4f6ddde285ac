"""Multi-label: every label of every row is judged by the recipe, and a row is as suspicious as its worst label.

A row and a label are a pair, and a pair is a question of yes or no: the margin is ±logit, the halves and the neighbours
say how probable the given answer is, and pairs are ranked among all pairs. Harm to the validation loss is a row's and
says nothing of its single labels: it does not count here (average precision on planted digits .96 and .98 without it,
.94 and .98 with; ranking label by label .01 worse, the sum over a row's labels .02 – .07 worse than the worst one).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from pipeline.detection.counts import (
    Counts,
    NoiseEstimate,
    count_classification,
    count_contradictions,
    estimate_noise,
)
from pipeline.detection.judges.halves import Measurements, pieces, reading, reading_train, role_files
from pipeline.detection.suspicion import Signal, rank_log_odds
from pipeline.runs.context import AuditContext
from pipeline.training.dynamics import epoch_path
from pipeline.training.halves import HALVES
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

    def signals(self) -> Iterator[tuple[str, np.ndarray]]:
        """What counts, high = suspicious, by the names of the rows' signals."""
        yield "early_margin", -self.margin
        yield "early_loss", self.loss
        yield "neighbour_margin", -self.neighbours
        if self.halves:
            yield "half_confidence", -self.own
        if self.panel is not None:
            yield "panel_wrong", 1 - self.panel


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


def pair_suspicion(pairs: Pairs) -> np.ndarray:
    """float64 `[rows, labels]` in (0, 1): the logistic of the mean rank log-odds among all pairs."""
    odds = [rank_log_odds(np.ascontiguousarray(values).reshape(-1)) for _, values in pairs.signals()]
    return (1 / (1 + np.exp(-np.mean(odds, axis=0)))).reshape(pairs.given.shape)


def row_signals(pairs: Pairs, worst: np.ndarray) -> list[Signal]:
    """The signals that count, each with its value for the row's most suspicious label; worst: int64 `[rows]`."""

    def of_worst(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, worst[:, None], 1)[:, 0].astype(np.float64)

    said = "the answer (yes or no) to the row's most suspicious label"
    found = [
        Signal(
            "early_margin", of_worst(pairs.margin), False, f"how clearly the model preferred {said} early on"
        ),
        Signal("early_loss", of_worst(pairs.loss), True, f"how hard {said} was to learn early in training"),
    ]
    words = f"whether the rows most like it have the same as {said}"
    found.append(Signal("neighbour_margin", of_worst(pairs.neighbours), False, words))
    if pairs.halves:
        words = f"what a model that never saw the row thinks of {said}"
        found.append(Signal("half_confidence", of_worst(pairs.own), False, words))
    if pairs.panel is not None:
        words = f"how improbable models that never saw the row find {said}"
        found.append(Signal("panel_wrong", of_worst(1 - pairs.panel), True, words))
    return found


def flipped(given: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """The sets with the most suspicious label turned round, uint8 `[rows, labels]`."""
    suggested = given.copy()
    rows = np.arange(len(given))
    suggested[rows, worst] = 1 - suggested[rows, worst]
    return suggested


def estimate_wrong_answers(run_path: Path, pairs: Pairs, window: int) -> NoiseEstimate | None:
    """The share of all answers that are wrong; the interval takes a row's labels as one observation."""
    labels = role_labels(run_data(run_path), "validation").numpy()
    wrong = [
        (mean_chances(reading(role_files(run_path, half, "validation", window)), labels.shape, window) > 0.5)
        != labels
        for half in HALVES
    ]
    return estimate_noise(pairs.contradicted.mean(1), np.mean(wrong, axis=(0, 2)), classes=2)


def count_rows_of_pairs(
    pairs: Pairs, suspicion: np.ndarray, ids: np.ndarray, harm: np.ndarray | None, noise: NoiseEstimate | None
) -> Counts:
    """Pairs are counted by the rules for classes; of as many most suspicious pairs, the rows.

    suspicion: `[rows, labels]`; ids, harm: `[rows]`, harm only with clean validation labels.
    """
    evidence = [pairs.contradicted, pairs.margin < 0, pairs.neighbours < 0]
    of_pairs = None if harm is None else np.broadcast_to(harm[:, None], pairs.given.shape)
    counts = count_classification(
        count_contradictions(evidence, of_pairs, pairs.contradicted), noise, pairs.given.size
    )
    labels = pairs.given.shape[1]
    order = np.lexsort((np.repeat(ids, labels), -suspicion.reshape(-1))) // labels
    rows = [len(np.unique(order[:number])) for number in (counts.likely_wrong, counts.review)]
    return Counts(*rows)
