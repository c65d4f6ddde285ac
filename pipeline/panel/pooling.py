"""Calibrates and weights every judge out of fold, and pools the judges into the panel's mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.config import ROLES
from pipeline.data.evidence.collect import evidence_path
from pipeline.panel.feature_blocks import EVIDENCE
from pipeline.panel.fits import Fit, folds_path, role_labels
from pipeline.panel.judges import FLOOR, OWN_PROBABILITIES, AnyJudge
from pipeline.panel.opinions import FOLDER, MEAN, MEAN_WITHOUT, opinions_path, write_opinions
from pipeline.panel.weights import Measured, Weighed, weigh
from pipeline.tasks.task import Probable, Task
from pipeline.workers.worker import run_data

NUMBERS = 2**21
"""How many probabilities are held at a time."""
CALIBRATION_ROWS = 20_000
"""A temperature is fitted on the first so many rows."""
COLDEST, HOTTEST = 0.05, 20.0


@dataclass(frozen=True)
class Opinions:
    """The opinions of one judge, averaged over repeats and, for other roles than train, over folds.

    Attributes:
        run_path: the run directory.
        judge: its name.
        folds: int16 `[repeats, train rows]`.
        count: how many folds there are.
        hidden: columns that a blind judge does not see.
    """

    run_path: Path
    judge: str
    folds: np.ndarray
    count: int
    hidden: tuple[str, ...] = ()

    def read(self, role: str, place: slice) -> np.ndarray:
        """The opinions on some rows of a role, float64 `[rows, classes]`, `[rows, labels]` or `[rows]`."""
        repeats = [self._repeat(role, repeat, place) for repeat in range(len(self.folds))]
        return np.asarray(np.mean(repeats, axis=0))

    def _repeat(self, role: str, repeat: int, place: slice) -> np.ndarray:
        parts = [
            np.load(Fit(self.judge, repeat, fold, self.hidden).path(self.run_path, role), mmap_mode="r")
            for fold in range(self.count)
        ]
        if role != "train":
            return np.asarray(np.mean([part[place] for part in parts], axis=0, dtype=np.float64))
        folds = self.folds[repeat]
        mine = folds[place]
        found = np.empty((len(mine), *parts[0].shape[1:]))
        for fold, part in enumerate(parts):
            first = int(np.count_nonzero(folds[: place.start] == fold))
            inside = mine == fold
            found[inside] = part[first : first + int(inside.sum())]
        return found


@dataclass(frozen=True)
class GivenOpinions:
    """The probabilities of a model of the user's own (`data.pred_probs`); attributes as in `Opinions`."""

    run_path: Path
    judge: str

    def read(self, role: str, place: slice) -> np.ndarray:
        """The probabilities of some rows of a role, float64 `[rows, classes]`; none is 0."""
        path = evidence_path(self.run_path / EVIDENCE, "pred_probs", role)
        found = np.load(path, mmap_mode="r")[place].astype(np.float64)
        return (1 - FLOOR) * found + FLOOR / found.shape[1]


AnyOpinions = Opinions | GivenOpinions


def _row_slices(rows: int, outputs: int) -> Iterator[slice]:
    size = max(1, NUMBERS // outputs)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def fit_temperature(opinions: np.ndarray, labels: np.ndarray, task: Probable) -> float:
    """The temperature with the lowest log loss on the given labels; the opinions are out of fold."""

    def loss(log_temperature: float) -> float:
        return float(task.row_losses(task.tempered(opinions, np.exp(log_temperature)), labels).mean())

    found = minimize_scalar(
        loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def baselines(labels: np.ndarray, task: Task, outputs: int) -> tuple[float, float | None]:
    """Error and log loss of a constant prediction: the class shares, or for regression the median (log loss None)."""
    if not isinstance(task, Probable):
        return float(task.errors(np.median(labels), labels).mean()), None
    shares = task.shares(labels, outputs)
    errors, losses = [], []
    for place in _row_slices(len(labels), outputs):
        bare, some = np.broadcast_to(shares, (len(labels[place]), outputs)), labels[place]
        errors.append(task.errors(bare, some))
        losses.append(task.row_losses(bare, some))
    return float(np.concatenate(errors).mean()), float(np.concatenate(losses).mean())


def measure(opinions: AnyOpinions, labels: np.ndarray, judged: np.ndarray) -> Measured:
    """Calibrate a judge and measure it out of fold on the judged train rows."""
    data = run_data(opinions.run_path)
    task, outputs = data.encoding.target, data.encoding.outputs
    temperature = 1.0
    if isinstance(task, Probable):
        places = np.flatnonzero(judged)[:CALIBRATION_ROWS]
        last = slice(0, int(places[-1]) + 1)
        temperature = fit_temperature(opinions.read("train", last)[places], labels[places], task)
    found: dict[str, list[np.ndarray]] = {"error": [], "log_loss": [], "accuracy": []}
    for place in _row_slices(len(labels), outputs):
        mine = judged[place]
        some = labels[place][mine]
        calibrated = task.tempered(opinions.read("train", place), temperature)[mine]
        found["error"].append(task.errors(calibrated, some))
        if isinstance(task, Probable):
            found["log_loss"].append(task.row_losses(calibrated, some))
            found["accuracy"].append(task.right(calibrated, some))
    means = {name: float(np.concatenate(parts).mean()) for name, parts in found.items() if parts}
    return Measured(opinions.judge, temperature, **means)


def pool(
    run_path: Path,
    judges: Sequence[AnyJudge],
    hidden: Sequence[str],
    blind_judges: Sequence[AnyJudge],
    count: int,
    judged: np.ndarray,
) -> dict[str, Any]:
    """Write the calibrated opinions of every judge and their mean.

    Args:
        run_path: the run directory.
        judges: judges that see all columns, and models of the user's own.
        hidden: columns that blind judges don't see.
        blind_judges: judges that don't see them.
        count: how many folds there are.
        judged: bool `[train rows]`, rows with an opinion.

    Returns:
        Values for judges.json.
    """
    data = run_data(run_path)
    task, labels, folds = data.encoding.target, role_labels(data, "train"), np.load(folds_path(run_path))
    baseline, baseline_log_loss = baselines(labels[judged], task, data.encoding.outputs)
    entries: list[dict[str, Any]] = []
    for blind, some in ((False, judges), (True, blind_judges)):
        if not some:
            continue
        of_all = [
            GivenOpinions(run_path, judge.name)
            if judge is OWN_PROBABILITIES
            else Opinions(run_path, judge.name, folds, count, tuple(hidden) if blind else ())
            for judge in some
        ]
        measured = [measure(each, labels, judged) for each in of_all]
        weighed = weigh(measured, baseline)
        others = {
            each.measured.judge: each.weight
            for each in weigh([each for each in measured if each.judge != OWN_PROBABILITIES.name], baseline)
        }
        for role in ROLES:
            if data.count(role) and not (blind and role == "train"):
                _write_role(run_path, role, blind, list(zip(of_all, weighed)))
                _write_mean(
                    run_path, role, blind, MEAN, {each.measured.judge: each.weight for each in weighed}
                )
                if len(others) < len(weighed):
                    _write_mean(run_path, role, blind, MEAN_WITHOUT, others)
        if not blind:
            entries = [
                _describe(judge, each) | {"weight_without": others.get(judge.name, 0.0)}
                for judge, each in zip(judges, weighed)
            ]
    return {"judges": entries, "baseline_log_loss": baseline_log_loss}


def _describe(judge: AnyJudge, weighed: Weighed) -> dict[str, Any]:
    found = weighed.measured
    measured = {"error": found.error} if found.log_loss is None else {"log_loss": found.log_loss}
    if found.accuracy is not None:
        measured["accuracy"] = found.accuracy
    return {
        "name": judge.name,
        "family": judge.family,
        "words": judge.words,
        "weight": weighed.weight,
        "counts": weighed.weight > 0,
        "why": weighed.why,
        **measured,
    }


def _write_role(run_path: Path, role: str, blind: bool, parts: list[tuple[AnyOpinions, Weighed]]) -> None:
    """Write the calibrated opinions of each judge, for all rows of a role."""
    data = run_data(run_path)
    task, outputs, rows = data.encoding.target, data.encoding.outputs, data.count(role)
    shape = task.opinions_shape(rows, outputs)
    for opinions, weighed in parts:
        with write_opinions(opinions_path(run_path / FOLDER, opinions.judge, role, blind), shape) as target:
            for place in _row_slices(rows, outputs):
                target[place] = task.tempered(opinions.read(role, place), weighed.measured.temperature)


def _write_mean(run_path: Path, role: str, blind: bool, name: str, weights: dict[str, float]) -> None:
    """Write the mean of the written opinions of some judges, by name with their weights, for all rows of a role."""
    data = run_data(run_path)
    task, outputs, rows = data.encoding.target, data.encoding.outputs, data.count(role)
    paths = [opinions_path(run_path / FOLDER, judge, role, blind) for judge in weights]
    shape = task.opinions_shape(rows, outputs)
    with write_opinions(opinions_path(run_path / FOLDER, name, role, blind), shape) as target:
        for place in _row_slices(rows, outputs):
            target[place] = task.mean_opinion(
                [np.load(path, mmap_mode="r")[place] for path in paths], list(weights.values())
            )
