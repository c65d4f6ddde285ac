"""The out-of-sample judges of classes and their weights: the models of the panel, and the audited model by its halves.

A judge *explains* 1 − (its out-of-sample log loss) / (log loss of the class shares). A judge that explains clearly less
than the best one gets a smaller weight or none, since an equal vote of a weak judge costs more than it helps.
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
from pipeline.panel.judges import OWN, OWN_PROBABILITIES
from pipeline.panel.opinions import FOLDER, Panel, opinions_path, read_panel, write_opinions
from pipeline.runs.context import AuditContext
from pipeline.tasks.classification import CLASSIFICATION
from pipeline.training.halves import HALVES
from pipeline.training.main_run import role_labels
from pipeline.workers.worker import run_data

MODEL = "model"
"""The name of the audited model as a judge: the half that did not see a row judges it, over the early window."""
NO_VOTE, FULL_VOTE = 0.7, 0.9
"""Shares of what the best judge explains: below the first the audited model has no vote, from the second on a full
vote, and in between a part of one. Networks learn structured noise, so that these limits are stricter than the
panel's."""
PANEL_NO_VOTE, PANEL_FULL_VOTE = 0.5, 0.8
"""The same for the models of the panel, if the audited model is better."""
TINY = 1e-6


@dataclass(frozen=True)
class Judge:
    """A judge.

    Attributes:
        name: in file names.
        words: what the judge is, for people.
        explains: the share of the log loss that it explains, at most 1; negative if it is worse than the class shares.
        weight: of its vote; 0 for no vote.
    """

    name: str
    words: str
    explains: float
    weight: float


@dataclass(frozen=True)
class Judges:
    """All judges of a run.

    Attributes:
        judges: the judges.
        paths: judge → role → the file of its opinions, float32 `[rows, classes]`.
        panel: the panel.
        in_sample: whether class probabilities of the user's own model were left out, because they look as if the model
            had seen the rows.
    """

    judges: list[Judge]
    paths: dict[str, dict[str, Path]]
    panel: Panel
    in_sample: bool = False

    def without_own_probabilities(self) -> Judges:
        """The same judges without the class probabilities of the user's own model."""
        name = OWN_PROBABILITIES.name
        explained = {judge.name: judge.explains for judge in self.judges if judge.name != name}
        panel = self.panel.without(name)
        return Judges(_with_votes(panel, explained), self.paths, panel, in_sample=True)

    @property
    def counting(self) -> list[Judge]:
        return [judge for judge in self.judges if judge.weight > 0]

    @property
    def explains(self) -> float:
        """The share of the log loss that the best judge explains."""
        return max(judge.explains for judge in self.judges)

    @property
    def model(self) -> Judge | None:
        return next((judge for judge in self.judges if judge.name == MODEL), None)

    @property
    def vote_of_training(self) -> float:
        """The vote of the audited training besides the panel, 0 … 1."""
        model = self.model
        return 1.0 if model is None else 2 * model.weight

    def weights(self) -> np.ndarray:
        return np.array([judge.weight for judge in self.counting])

    @property
    def own_share(self) -> float:
        """The share of the votes that models of the user's own have, 0 … 1."""
        return float(sum(judge.weight for judge in self.judges if judge.name in OWN) / self.weights().sum())

    def of(self, judge: str, role: str) -> np.ndarray:
        """The opinions of a judge on the rows of a role, float32 `[rows, classes]`, memory-mapped."""
        return np.load(self.paths[judge][role], mmap_mode="r")

    def opinions(self, role: str) -> list[np.ndarray]:
        """The opinions of the judges with a vote, in their order."""
        return [self.of(judge.name, role) for judge in self.counting]

    def together(self, role: str) -> np.ndarray:
        """The pooled opinions of the judges with a vote, float32 `[rows, classes]`."""
        return pooled(self.opinions(role), self.weights())

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(judge) for judge in self.judges]


def collect_judges(context: AuditContext, given: np.ndarray, window: int) -> Judges | None:
    """The judges of a classification; None without a panel. `given` has the encoded labels, `[train rows]`."""
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
        paths[MODEL], loss = _judge_by_halves(path, _roles_of_halves(path, roles), window)
        explained[MODEL] = 1 - loss / without if without > 0 else 0.0
    return Judges(_with_votes(panel, explained), paths, panel)


def _with_votes(panel: Panel, explained: dict[str, float]) -> list[Judge]:
    """The judges of a panel and the audited model, if `explained` (name → what a judge explains) has it."""
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
    return found


def vote(explains: float, best: float, none: float, full: float) -> float:
    """The vote of a judge, 0 … 1: linear between the shares `none` and `full` of what the best judge explains.

    The vote is 1 if no judge explains anything.
    """
    if best <= 0:
        return 1.0
    return float(np.clip((explains / best - none) / (full - none), 0.0, 1.0))


def _roles_of_halves(run_path: Path, roles: Sequence[str]) -> list[str]:
    """The roles whose rows the halves have judged."""
    return [role for role in roles if role == "train" or _role_directory_exists(run_path, role)]


def _role_directory_exists(run_path: Path, role: str) -> bool:
    return all((run_path / "training" / f"half-{half}" / role).exists() for half in HALVES)


def _judge_by_halves(run_path: Path, roles: Sequence[str], window: int) -> tuple[dict[str, Path], float]:
    """Write the opinions of the audited model on the rows of some roles.

    The half that did not see a train row judges it; rows of other roles get the mean of both halves. One temperature,
    fitted out of sample on the given train labels, is used for all roles.

    Returns:
        Role → file, and the log loss on the train rows.
    """
    fitted, of_fitted = sample(run_path, "train", reading_train(run_path, window), window)
    temperature = fit_temperature(fitted, of_fitted)
    scaled = at_temperature(fitted, temperature)
    own = scaled.gather(1, of_fitted[:, None]).clamp(min=TINY)
    paths = {role: run_path / "detection" / MODEL / f"{role}.npy" for role in roles}
    for role, path in paths.items():
        _write_opinions_of_halves(run_path, role, path, window, temperature)
    return paths, float(-own.double().log().mean())


def _write_opinions_of_halves(run_path: Path, role: str, path: Path, window: int, temperature: float) -> None:
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
    """The weighted geometric mean of probabilities, float32 `[rows, classes]`; every row sums to 1."""
    total = sum(
        weight * np.log(np.maximum(opinion, TINY))
        for weight, opinion in zip(weights / weights.sum(), opinions)
    )
    total -= total.max(1, keepdims=True)
    np.exp(total, out=total)
    return (total / total.sum(1, keepdims=True)).astype(np.float32)
