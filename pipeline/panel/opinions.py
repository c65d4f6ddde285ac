"""The panel's opinions (predictions) on disk, and the description of its judges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runs.directory import read_json, write_atomically
from pipeline.tasks.task import TINY

FOLDER = Path("panel")
MEAN, JUDGED = "mean", "judged"
MEAN_WITHOUT = "mean_without"
"""The mean without the class probabilities of the user's own model."""


@dataclass(frozen=True)
class JudgeInfo:
    """A judge and its quality; numbers are out of fold, calibrated, against the given train labels.

    Attributes:
        name, family, words: as in `Judge`.
        weight: share of the panel's mean; 0 if the judge is left out as clearly worse.
        counts: whether the weight is above 0.
        why: why the judge is left out, or empty.
        log_loss: in nats; None for regression.
        accuracy: None for regression.
        error: mean absolute error of standardised targets; None except for regression.
        weight_without: its weight if the class probabilities of the user's own model have none.
    """

    name: str
    family: str
    words: str
    weight: float
    counts: bool
    why: str
    log_loss: float | None = None
    accuracy: float | None = None
    error: float | None = None
    weight_without: float = 0.0


class Panel:
    """The opinions of a run's panel, memory-mapped; rows are in the order of the role's encoded rows."""

    def __init__(self, run_path: Path):
        self._folder, self._mean = run_path / FOLDER, MEAN
        self.facts: dict[str, Any] = read_json(self._folder / "judges.json")
        self.judges = [JudgeInfo(**entry) for entry in self.facts["judges"]]

    def without(self, judge: str) -> Panel:
        """The panel without the class probabilities of the user's own model; `judge` is their name."""
        found = copy(self)
        found._mean = MEAN_WITHOUT
        found.judges = [
            replace(each, weight=each.weight_without, counts=each.weight_without > 0)
            for each in self.judges
            if each.name != judge
        ]
        return found

    def mean(self, role: str, blind: bool = False) -> np.ndarray:
        """The weighted mean of the calibrated judges.

        Train rows are judged out of fold, other rows by the mean of the fits of all folds.

        Args:
            role: train, validation or holdout.
            blind: take judges that see no column of `data.group`; for validation and holdout.

        Returns:
            float32 `[rows, classes]`, `[rows, labels]` or, for regression, `[rows]`.
        """
        return self.of(MEAN if blind else self._mean, role, blind)

    def of(self, judge: str, role: str, blind: bool = False) -> np.ndarray:
        """The opinions of one judge; arguments and shapes are those of `mean`."""
        return np.load(opinions_path(self._folder, judge, role, blind), mmap_mode="r")

    def judged(self, role: str) -> np.ndarray:
        """bool `[rows]`, False for rows without an opinion, because their class has fewer train rows than folds."""
        return np.load(self._folder / JUDGED / f"{role}.npy")

    def has_blind(self, role: str) -> bool:
        """Whether there are opinions without the columns of `data.group`."""
        return opinions_path(self._folder, MEAN, role, True).exists()


def read_panel(run_path: Path) -> Panel | None:
    """The panel of a run; None if the run has none, as with `detection.panel: false`."""
    return Panel(run_path) if (run_path / FOLDER / "judges.json").exists() else None


def opinions_path(folder: Path, judge: str, role: str, blind: bool) -> Path:
    return folder / f"{judge}{'-blind' if blind else ''}" / f"{role}.npy"


@contextmanager
def write_opinions(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Write a float32 array to a file; the file appears only if the block ends without an error."""
    with write_atomically(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        yield array
        array.flush()
        del array


def panel_margin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The margin ln p(given label) − ln p(best other label), which is low for labels that look wrong.

    For sets of labels it is the smallest log odds in favour of the given answer, over the labels of the row.

    Args:
        probabilities: `[rows, classes]`, or `[rows, labels]` for sets.
        labels: int64 `[rows]`, or uint8 `[rows, labels]` for sets.

    Returns:
        float64 `[rows]`.
    """
    if labels.ndim == 2:
        yes = np.clip(probabilities.astype(np.float64), TINY, 1 - TINY)
        odds = np.log(yes) - np.log1p(-yes)
        return np.where(labels > 0, odds, -odds).min(1)
    logs = np.log(np.maximum(probabilities.astype(np.float64), TINY))
    rows = np.arange(len(labels))
    own = logs[rows, labels]
    logs[rows, labels] = -np.inf
    return own - logs.max(1)
