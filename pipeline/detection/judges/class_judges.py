"""Who judges labels out of sample, and how much each counts: the panel's models, and the audited model by its halves.

A judge *explains* 1 − (its log loss out of sample) / (the log loss of the classes' shares). Who explains clearly less
than the best is counted less, or not at all: an equal vote of a weak judge costs more than it brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.detection.judges.calibration import at_temperature, fit_temperature, sample, with_own
from pipeline.detection.judges.halves import (
    Measurements,
    mean_probabilities,
    pieces,
    reading,
    reading_train,
    role_files,
)
from pipeline.panel.opinions import FOLDER, Panel, opinions_path, read_panel, write_opinions
from pipeline.runs.context import AuditContext
from pipeline.tasks.classification import CLASSIFICATION
from pipeline.training.halves import HALVES
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

MODEL = "model"
"""The audited model: each row judged by the half that did not see it, over the early window."""
NO_VOTE, FULL_VOTE = 0.7, 0.9
"""Of what the best judge explains: a model of the audited kind has no vote below the first, a whole one from the second
on, and part of one between. Networks learn structured noise, so they are held to more than the panel's models are."""
PANEL_NO_VOTE, PANEL_FULL_VOTE = 0.5, 0.8
"""The same for the panel's models, where the audited model is better."""
TINY = 1e-6


@dataclass(frozen=True)
class Judge:
    """explains: share of the loss, 0 … 1 (negative: worse than the classes' shares); weight: of its vote, 0: none."""

    name: str
    words: str
    explains: float
    weight: float


@dataclass(frozen=True)
class Judges:
    """All judges of a run; `paths`: judge → role → a float32 array `[rows, classes]` on disk."""

    judges: list[Judge]
    paths: dict[str, dict[str, Path]]
    panel: Panel

    @property
    def counting(self) -> list[Judge]:
        return [judge for judge in self.judges if judge.weight > 0]

    @property
    def explains(self) -> float:
        """What the best judge explains."""
        return max(judge.explains for judge in self.judges)

    @property
    def model(self) -> Judge | None:
        return next((judge for judge in self.judges if judge.name == MODEL), None)

    @property
    def vote_of_training(self) -> float:
        """How much what the audited training says counts beside the panel, 0 … 1."""
        model = self.model
        return 1.0 if model is None else 2 * model.weight

    def weights(self) -> np.ndarray:
        return np.array([judge.weight for judge in self.counting])

    def of(self, judge: str, role: str) -> np.ndarray:
        """float32 `[rows, classes]`, mapped from disk."""
        return np.load(self.paths[judge][role], mmap_mode="r")

    def opinions(self, role: str) -> list[np.ndarray]:
        """Of the judges that count, in their order."""
        return [self.of(judge.name, role) for judge in self.counting]

    def together(self, role: str) -> np.ndarray:
        """What those that count say together, float32 `[rows, classes]`."""
        return pooled(self.opinions(role), self.weights())

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(judge) for judge in self.judges]


def collect_judges(context: AuditContext, given: np.ndarray, window: int) -> Judges | None:
    """The judges of a classification; None without a panel. given: encoded labels `[train rows]`."""
    path, panel = context.run.path, read_panel(context.run.path)
    if panel is None:
        return None
    data = run_data(path)
    roles = [role for role in ("train", "validation", "holdout") if data.count(role)]
    without = CLASSIFICATION.constant_loss(given)
    paths = {
        judge.name: {role: opinions_path(path / FOLDER, judge.name, role, False) for role in roles}
        for judge in panel.judges
    }
    explained = {
        judge.name: 1 - (judge.log_loss or 0.0) / without if without > 0 else 0.0 for judge in panel.judges
    }
    if context.config.detection.halves:
        paths[MODEL], loss = judge_by_halves(path, roles_of_halves(path, roles), window)
        explained[MODEL] = 1 - loss / without if without > 0 else 0.0
    best = max(explained.values())
    votes = {judge.name: judge.weight for judge in panel.judges}
    total = sum(votes.values()) or 1.0
    found = [
        Judge(
            judge.name,
            judge.words,
            explained[judge.name],
            votes[judge.name] / total * vote(explained[judge.name], best, PANEL_NO_VOTE, PANEL_FULL_VOTE),
        )
        for judge in panel.judges
    ]
    if MODEL in explained:
        weight = vote(explained[MODEL], best, NO_VOTE, FULL_VOTE) / 2
        words = "the audited model, by the half of it that never saw the row"
        found.append(Judge(MODEL, words, explained[MODEL], weight))
    return Judges(found, paths, panel)


def vote(explains: float, best: float, none: float, full: float) -> float:
    """0 … 1, linear between the two shares of what the best judge explains; a whole one where nobody explains."""
    if best <= 0:
        return 1.0
    return float(np.clip((explains / best - none) / (full - none), 0.0, 1.0))


def roles_of_halves(run_path: Path, roles: Sequence[str]) -> list[str]:
    """Roles whose rows the halves have judged."""
    return [role for role in roles if role == "train" or role_directory_exists(run_path, role)]


def role_directory_exists(run_path: Path, role: str) -> bool:
    return all((run_path / "training" / f"half-{half}" / role).exists() for half in HALVES)


def judge_by_halves(run_path: Path, roles: Sequence[str], window: int) -> tuple[dict[str, Path], float]:
    """Write the audited model's opinions on the roles' rows; returns their paths and the log loss on train rows.

    Train rows are judged by the half that did not see them, others by the mean of both. One temperature, fitted on the
    train rows' given labels out of sample, holds for all roles.
    """
    fitted, of_fitted = sample(run_path, "train", reading_train(run_path, window), window)
    temperature = fit_temperature(fitted, of_fitted)
    scaled = at_temperature(fitted, temperature)
    own = scaled.gather(1, of_fitted[:, None]).clamp(min=TINY)
    paths = {role: run_path / "detection" / MODEL / f"{role}.npy" for role in roles}
    for role, path in paths.items():
        write_opinions_of_halves(run_path, role, path, window, temperature)
    return paths, float(-own.double().log().mean())


def write_opinions_of_halves(run_path: Path, role: str, path: Path, window: int, temperature: float) -> None:
    data = run_data(run_path)
    labels, outputs = role_labels(data, role).long(), data.encoding.outputs
    readers: list[Measurements] = (
        [reading_train(run_path, window)]
        if role == "train"
        else [reading(role_files(run_path, half, role, window)) for half in HALVES]
    )
    with write_opinions(path, (len(labels), outputs)) as target:
        for place in pieces(len(labels), outputs):
            total = torch.zeros(place.stop - place.start, outputs)
            for measurements in readers:
                mean = mean_probabilities(measurements(place), place, outputs, window)
                total += with_own(*mean, labels[place]) / len(readers)
            target[place] = at_temperature(total, temperature).numpy()


def pooled(opinions: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted geometric mean of probabilities, float32 `[rows, classes]`, rows summing to 1."""
    total = sum(
        weight * np.log(np.maximum(opinion, TINY))
        for weight, opinion in zip(weights / weights.sum(), opinions)
    )
    total -= total.max(1, keepdims=True)
    np.exp(total, out=total)
    return (total / total.sum(1, keepdims=True)).astype(np.float32)
