"""Fits a judge on all folds but one, and writes its opinions on that fold and on the other roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.config import ROLES
from pipeline.data.encoded import EncodedData
from pipeline.panel.feature_blocks import WORK, Blocks, load_blocks, pieces
from pipeline.panel.judges import BY_NAME, Fitted
from pipeline.panel.opinions import write_opinions
from pipeline.runs.directory import write_atomically
from pipeline.seeds import random_state
from pipeline.tasks.registry import TASKS
from pipeline.workers.kept import keep
from pipeline.workers.worker import run_data


@dataclass(frozen=True)
class Fit:
    """A judge that is fitted without one fold of a repeat; a blind judge does not see the columns `without`."""

    judge: str
    repeat: int
    fold: int
    without: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        blind = " without the group" if self.without else ""
        return f"panel: {self.judge}{blind}, fold {self.fold + 1}"

    def path(self, run_path: Path, role: str) -> Path:
        """The file of its opinions on the rows of a role; for train only the rows of the fold, in their order."""
        folder = f"{self.judge}{'-blind' if self.without else ''}"
        return run_path / WORK / folder / f"{self.repeat}-{self.fold}-{role}.npy"


def save_array(path: Path, array: np.ndarray) -> None:
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def folds_path(run_path: Path) -> Path:
    """The file with the fold of every train row, int16 `[repeats, train rows]`."""
    return run_path / WORK / "folds.npy"


def sample_path(run_path: Path) -> Path:
    """The file with the places of the train rows that judges are fitted on, int64, ascending."""
    return run_path / WORK / "sample.npy"


def role_labels(data: EncodedData, role: str) -> np.ndarray:
    """The encoded labels of all rows of a role."""
    return np.concatenate([data.load(chunk).labels.numpy() for chunk in data.chunks(role)])


def _sample_blocks(run_path: Path, without: Sequence[str]) -> Blocks:
    """The features of the sampled train rows, without some columns; each worker reads them once."""

    def load() -> Blocks:
        places = np.load(sample_path(run_path))
        parts = []
        for piece in pieces(run_data(run_path), "train"):
            inside = places[(places >= piece.first) & (places < piece.place.stop)] - piece.first
            if len(inside):
                parts.append(load_blocks(run_path, piece, without).select(inside))
        return Blocks.concatenate(parts)

    kind = "panel blocks without " + ", ".join(without) if without else "panel blocks"
    return keep(kind, sample_path(run_path), load)


def _train_labels(run_path: Path) -> np.ndarray:
    return keep("panel labels", sample_path(run_path), lambda: role_labels(run_data(run_path), "train"))


def run_fit(run_path: Path, fit: Fit, seed: int) -> None:
    """Fit a judge and write its opinions, unless they are on disk (a task for a worker)."""
    data = run_data(run_path)
    roles = [role for role in ROLES if data.count(role)]
    if all(fit.path(run_path, role).exists() for role in roles):
        return
    folds, places = np.load(folds_path(run_path))[fit.repeat], np.load(sample_path(run_path))
    inside = np.flatnonzero(folds[places] != fit.fold)
    if not len(inside):  # all rows have the same features and so are in one fold
        inside = np.arange(len(places))
    labels = _train_labels(run_path)[places[inside]]
    blocks = _sample_blocks(run_path, fit.without).select(inside)
    of_fit = int(random_state(f"panel {fit.judge}", seed, fit.repeat, fit.fold).randint(2**31))
    with threadpool_limits(1):
        encoding = data.encoding
        fitted = Fitted(BY_NAME[fit.judge], blocks, labels, encoding.task, encoding.outputs, of_fit)
        del blocks
        for role in roles:
            _judge_role(run_path, fit, fitted, role, folds == fit.fold)


def _judge_role(run_path: Path, fit: Fit, fitted: Fitted, role: str, mine: np.ndarray) -> None:
    """Write the opinions on the rows of a role; of the train rows only those with `mine`, bool `[train rows]`."""
    data = run_data(run_path)
    rows = int(mine.sum()) if role == "train" else data.count(role)
    shape = TASKS[fitted.task].opinions_shape(rows, fitted.outputs)
    at = 0
    with write_opinions(fit.path(run_path, role), shape) as target:
        for piece in pieces(data, role):
            which = mine[piece.place] if role == "train" else np.ones(piece.rows, dtype=bool)
            count = int(which.sum())
            if count:
                blocks = load_blocks(run_path, piece, fit.without)
                target[at : at + count] = fitted.judge(
                    blocks if count == piece.rows else blocks.select(which)
                )
                at += count
