"""The panel's opinions: how judges are described, and where and how their numbers lie on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.runs.directory import read_json, write_atomically
from pipeline.tasks.task import TINY

FOLDER = Path("panel")
MEAN, JUDGED = "mean", "judged"


@dataclass(frozen=True)
class JudgeInfo:
    """A judge. weight: share of the panel's mean, 0 where it is left out as clearly worse; then `why` says so.

    log_loss, accuracy: out of fold against the given train labels, calibrated; error: in regression, the mean
    absolute error of standardised targets.
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


class Panel:
    """The opinions of a run's panel, mapped from disk; rows in the order of the role's encoded rows."""

    def __init__(self, run_path: Path):
        self._folder = run_path / FOLDER
        self.facts: dict[str, Any] = read_json(self._folder / "judges.json")
        self.judges = [JudgeInfo(**entry) for entry in self.facts["judges"]]

    def mean(self, role: str, blind: bool = False) -> np.ndarray:
        """float32 `[rows, classes]`, `[rows, labels]` or `[rows]`: the weighted mean of the calibrated judges.

        Rows of train are judged out of fold, others by the mean of the folds' judges. blind: by judges that see none
        of the columns of `data.group`, for validation and holdout.
        """
        return self.of(MEAN, role, blind)

    def of(self, judge: str, role: str, blind: bool = False) -> np.ndarray:
        """What one judge says, as `mean` does."""
        return np.load(opinions_path(self._folder, judge, role, blind), mmap_mode="r")

    def judged(self, role: str) -> np.ndarray:
        """bool `[rows]`: False where the panel has no opinion, as the row's class has fewer rows than folds."""
        return np.load(self._folder / JUDGED / f"{role}.npy")

    def has_blind(self, role: str) -> bool:
        """Whether there are opinions without the columns of `data.group`."""
        return opinions_path(self._folder, MEAN, role, True).exists()


def read_panel(run_path: Path) -> Panel | None:
    """The panel of a run; None where detection.panel is false."""
    return Panel(run_path) if (run_path / FOLDER / "judges.json").exists() else None


def opinions_path(folder: Path, judge: str, role: str, blind: bool) -> Path:
    return folder / f"{judge}{'-blind' if blind else ''}" / f"{role}.npy"


@contextmanager
def write_opinions(path: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A float32 array in a file that is there, complete, only when the block ends well."""
    with write_atomically(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        yield array
        array.flush()
        del array


def panel_margin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """ln p(given label) − ln p(the best other), float64 `[rows]`: low where the label looks wrong.

    probabilities: `[rows, classes]` with labels int64 `[rows]`; or `[rows, labels]` with sets uint8
    `[rows, labels]`, of which the least answer counts.
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
