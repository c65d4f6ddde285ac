"""Calibrates and weights every judge out of fold, and pools the judges into the panel's mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.data.files import ROLES
from pipeline.panel.fits import Fit, folds_path, role_labels
from pipeline.panel.judges import Judge
from pipeline.panel.opinions import FOLDER, MEAN, TINY, opinions_path, write_opinions
from pipeline.panel.weights import Measured, Weighed, weigh
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


def row_slices(rows: int, outputs: int) -> Iterator[slice]:
    size = max(1, NUMBERS // outputs)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def tempered(opinions: np.ndarray, temperature: float, task: str) -> np.ndarray:
    """Divide log probabilities (log odds for sets) by a temperature; returns probabilities. Targets stay the same."""
    if task == "regression":
        return opinions
    if task == "multilabel":
        yes = np.clip(opinions, TINY, 1 - TINY)
        return 1 / (1 + ((1 - yes) / yes) ** (1 / temperature))
    return normalised(np.log(np.maximum(opinions, TINY)) / temperature)


def normalised(logs: np.ndarray) -> np.ndarray:
    """Turn log probabilities `[rows, classes]`, known up to a constant per row, into probabilities (softmax)."""
    raised = np.exp(logs - logs.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def row_losses(opinions: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """The log loss of each row in nats (for sets the mean over labels), float64 `[rows]`."""
    if task == "multilabel":
        given = np.where(labels > 0, opinions, 1 - opinions)
        return -np.log(np.maximum(given, TINY)).mean(1)
    return -np.log(np.maximum(opinions[np.arange(len(labels)), labels], TINY))


def right(opinions: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """1 if the most probable class is the given one, else 0; for sets the share of right labels. float64 `[rows]`."""
    if task == "multilabel":
        return ((opinions > 0.5) == (labels > 0)).mean(1)
    return (opinions.argmax(1) == labels).astype(np.float64)


def fit_temperature(opinions: np.ndarray, labels: np.ndarray, task: str) -> float:
    """The temperature with the lowest log loss on the given labels; the opinions are out of fold."""

    def loss(log_temperature: float) -> float:
        return float(row_losses(tempered(opinions, np.exp(log_temperature), task), labels, task).mean())

    found = minimize_scalar(
        loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def squared_errors(opinions: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """The squared error of each row, summed over classes or labels; for regression the absolute error of the target."""
    if task == "regression":
        return np.abs(opinions - labels)
    given = labels if task == "multilabel" else np.eye(opinions.shape[1])[labels]
    return np.square(opinions - given).sum(1)


def baselines(labels: np.ndarray, task: str, outputs: int) -> tuple[float, float | None]:
    """Error and log loss of a constant prediction: the class shares, or for regression the median (log loss None)."""
    if task == "regression":
        error = float(np.abs(labels - np.median(labels)).mean())
        return error, None
    shares = np.bincount(labels, minlength=outputs) / len(labels) if labels.ndim == 1 else labels.mean(0)
    errors, losses = [], []
    for place in row_slices(len(labels), outputs):
        bare, some = np.broadcast_to(shares, (len(labels[place]), outputs)), labels[place]
        errors.append(squared_errors(bare, some, task))
        losses.append(row_losses(bare, some, task))
    return float(np.concatenate(errors).mean()), float(np.concatenate(losses).mean())


def measure(opinions: Opinions, labels: np.ndarray, judged: np.ndarray) -> Measured:
    """Calibrate a judge and measure it out of fold on the judged train rows."""
    data = run_data(opinions.run_path)
    task, outputs = data.encoding.task, data.encoding.outputs
    temperature = 1.0
    if task != "regression":
        places = np.flatnonzero(judged)[:CALIBRATION_ROWS]
        last = slice(0, int(places[-1]) + 1)
        temperature = fit_temperature(opinions.read("train", last)[places], labels[places], task)
    found: dict[str, list[np.ndarray]] = {"error": [], "log_loss": [], "accuracy": []}
    for place in row_slices(len(labels), outputs):
        mine = judged[place]
        some = labels[place][mine]
        calibrated = tempered(opinions.read("train", place), temperature, task)[mine]
        found["error"].append(squared_errors(calibrated, some, task))
        if task != "regression":
            found["log_loss"].append(row_losses(calibrated, some, task))
            found["accuracy"].append(right(calibrated, some, task))
    means = {name: float(np.concatenate(parts).mean()) for name, parts in found.items() if parts}
    return Measured(opinions.judge, temperature, **means)


def pool(
    run_path: Path,
    judges: Sequence[Judge],
    hidden: Sequence[str],
    blind_judges: Sequence[Judge],
    count: int,
    judged: np.ndarray,
) -> dict[str, Any]:
    """Write the calibrated opinions of every judge and their mean.

    Args:
        run_path: the run directory.
        judges: judges that see all columns.
        hidden: columns that blind judges don't see.
        blind_judges: judges that don't see them.
        count: how many folds there are.
        judged: bool `[train rows]`, rows with an opinion.

    Returns:
        Values for judges.json.
    """
    data = run_data(run_path)
    task, labels, folds = data.encoding.task, role_labels(data, "train"), np.load(folds_path(run_path))
    baseline, baseline_log_loss = baselines(labels[judged], task, data.encoding.outputs)
    entries: list[dict[str, Any]] = []
    for blind, some in ((False, judges), (True, blind_judges)):
        if not some:
            continue
        of_all = [
            Opinions(run_path, judge.name, folds, count, tuple(hidden) if blind else ()) for judge in some
        ]
        weighed = weigh([measure(each, labels, judged) for each in of_all], baseline)
        for role in ROLES:
            if data.count(role) and not (blind and role == "train"):
                write_role(run_path, role, blind, list(zip(of_all, weighed)))
        if not blind:
            entries = [describe(judge, each) for judge, each in zip(judges, weighed)]
    return {"judges": entries, "baseline_log_loss": baseline_log_loss}


def describe(judge: Judge, weighed: Weighed) -> dict[str, Any]:
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


def write_role(run_path: Path, role: str, blind: bool, parts: list[tuple[Opinions, Weighed]]) -> None:
    """Write the calibrated opinions of each judge and their weighted mean, for all rows of a role."""
    data = run_data(run_path)
    task, outputs, rows = data.encoding.task, data.encoding.outputs, data.count(role)
    shape = (rows,) if task == "regression" else (rows, outputs)
    for opinions, weighed in parts:
        with write_opinions(opinions_path(run_path / FOLDER, opinions.judge, role, blind), shape) as target:
            for place in row_slices(rows, outputs):
                target[place] = tempered(opinions.read(role, place), weighed.measured.temperature, task)
    paths = [opinions_path(run_path / FOLDER, opinions.judge, role, blind) for opinions, _ in parts]
    weights = [weighed.weight for _, weighed in parts]
    with write_opinions(opinions_path(run_path / FOLDER, MEAN, role, blind), shape) as target:
        for place in row_slices(rows, outputs):
            target[place] = mean_opinion(
                [np.load(path, mmap_mode="r")[place] for path in paths], weights, task
            )


def mean_opinion(opinions: Sequence[np.ndarray], weights: Sequence[float], task: str) -> np.ndarray:
    """The weighted mean of log probabilities (log odds for sets), as probabilities; for regression of the targets."""
    if task == "regression":
        return np.average(opinions, axis=0, weights=weights)
    arrays = [np.clip(each.astype(np.float64), TINY, 1 - TINY) for each in opinions]
    if task == "multilabel":
        odds = np.average([np.log(each) - np.log1p(-each) for each in arrays], axis=0, weights=weights)
        return 1 / (1 + np.exp(-odds))
    return normalised(np.average([np.log(each) for each in arrays], axis=0, weights=weights))
