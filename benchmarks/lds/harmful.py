"""Removing the 2 % most harmful rows: what methods forecast for the mean validation loss, and what retraining finds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from benchmarks.lds.predictions import Scores
from benchmarks.lds.rows import Data
from benchmarks.lds.tasks import Task
from benchmarks.lds.truth import Piece, measure, task_folder, train_many
from pipeline.runs.tensors import save_tensors

SHARE = 0.02
# Task -> how often rows are removed and how often all rows are trained on, a seed each.
RETRAININGS = {"digits": 10, "digits_noisy": 10, "fashion_mnist_noisy": 5, "cifar10_convnet": 3}
METHODS = ("source", "source_refined", "unrolled", "influence")
POINT = "tail"
Row = dict[str, Any]


def most_harmful(scores: np.ndarray) -> np.ndarray:
    """bool `[rows]`: the rows whose removal lowers the loss the most. scores: τ `[rows]`."""
    removed = np.zeros(len(scores), dtype=bool)
    removed[np.argsort(scores, kind="stable")[: round(SHARE * len(scores))]] = True
    return removed


def forecast(scores: np.ndarray, removed: np.ndarray, steps: float) -> float:
    """The rise of the loss when rows are removed and training takes `steps` times as many steps.

    The rows that are kept weigh w = steps · N/(N − k): Σ over removed of τ + (1 − w) Σ over kept of τ.
    """
    weight = steps * len(scores) / np.count_nonzero(~removed)
    return float(scores[removed].sum() + (1 - weight) * scores[~removed].sum())


def measure_removals(name: str, task: Task, data: Data, bases: Sequence[Scores]) -> None:
    """Retrain whatever is missing: on all rows, and without what each method takes for harmful."""
    nothing = np.zeros(len(data.labels), dtype=bool)
    for removed in [nothing, *sets(bases).values()]:
        for seed in range(RETRAININGS[name]):
            path = kept_at(name, task, removed, seed)
            if not path.exists():
                piece = Piece(name, SHARE, 0, 1, seed)
                save_tensors(path, measure(task, data, train_many(task, data, [~removed], piece)))
                print(f"{name}: {np.count_nonzero(removed)} rows removed, retraining {seed}", flush=True)


def sets(bases: Sequence[Scores]) -> dict[tuple[str, int], np.ndarray]:
    """(method, base model) -> the rows to remove."""
    return {
        (method, place): most_harmful(base[method, "validation_loss", POINT][0])
        for method in METHODS
        for place, base in enumerate(bases)
        if (method, "validation_loss", POINT) in base
    }


def kept_at(name: str, task: Task, removed: np.ndarray, seed: int) -> Path:
    digest = hashlib.sha256(np.packbits(removed).tobytes()).hexdigest()[:12]
    return task_folder(name, task) / f"harmful-{digest}-{seed}.safetensors"


def removal_rows(name: str, task: Task, bases: Sequence[Scores]) -> list[Row]:
    """Forecast and measured change of each method, means over base models; those that are measured throughout.

    The interval of the measured change is that of its mean over seeds, twice the standard error each way.
    """
    chosen, rows = sets(bases), []
    for method in METHODS:
        mine = {place: removed for (other, place), removed in chosen.items() if other == method}
        changes = [change(name, task, removed) for removed in mine.values()]
        if not mine or any(one is None for one in changes):
            continue
        forecasts = [
            forecast(bases[place][method, "validation_loss", POINT][0], removed, steps_share(task, removed))
            for place, removed in mine.items()
        ]
        measured = np.mean([one for one in changes if one is not None], 0)
        error = float(2 * measured.std(ddof=1) / np.sqrt(len(measured)))
        value = float(measured.mean())
        common = {"task": name, "method": method, "at": POINT, "truth": POINT, "removed": SHARE}
        common |= {"models": len(mine), "retrainings": len(measured)}
        rows += [
            common | {"metric": "harmful_forecast", "value": round(float(np.mean(forecasts)), 4)},
            common
            | {"metric": "harmful_change", "value": round(value, 4)}
            | {"low": round(value - error, 4), "high": round(value + error, 4)},
        ]
        if name == "cifar10_convnet" and method == "source_refined":
            rows.append(rows[-1] | {"sense": "<", "target": 0.0, "met": value < 0})
    return rows


def steps_share(task: Task, removed: np.ndarray) -> float:
    """Steps of training without the rows, as a share of those with them; of one stage."""
    (fewer,), (all_,) = (task.recipe.steps((count,)) for count in (np.count_nonzero(~removed), len(removed)))
    return fewer / all_


def change(name: str, task: Task, removed: np.ndarray) -> np.ndarray | None:
    """`[retrainings]`: the loss without the rows minus that with them, of the same seed; None if any is missing."""
    found = []
    for seed in range(RETRAININGS[name]):
        paths = [kept_at(name, task, each, seed) for each in (removed, np.zeros_like(removed))]
        if not all(path.exists() for path in paths):
            return None
        without, everything = (load_file(path)[f"loss_{POINT}"] for path in paths)
        found.append(float(without - everything))
    return np.array(found)
