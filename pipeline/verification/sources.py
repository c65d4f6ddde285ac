"""The effect of leaving out the rows of a source: forecast by attribution, and measured by retraining."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from pipeline.detection.intervals import NORMAL_QUANTILE
from pipeline.detection.signals.evidence import read_score
from pipeline.detection.sources.source_values import declared_sources, read_values
from pipeline.detection.sources.suspect_sources import SourceColumn
from pipeline.errors import WinnowError
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.training.batches import Selection
from pipeline.training.setup import class_weights
from pipeline.verification.fidelity import keep_only_current
from pipeline.verification.forecast import predicted_loss_change
from pipeline.verification.retrain import run_missing, train_and_measure
from pipeline.workers.worker import run_config, run_data

WITHOUT = "without"
ALL_ROWS = "all"


def judge_sources(context: AuditContext, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Forecast the effect of leaving out each source, and retrain without the first `verification.sources` named ones.

    Args:
        context: of the audit.
        lines: of `find_sources`, the worst source first.

    Returns:
        The lines, each with two more values:

        - forecast: the change of the mean validation loss without the source's train rows, in nats, uncalibrated; None
          if harm to the validation loss was not scored.
        - measured: one retraining without these rows against one with all rows; None if there was none. It has seed,
          rows, validation_loss (the change of the mean, or None), and loss and metric: mean, low and high of the change
          on the holdout, or None. Their intervals are over the rows alone.
    """
    if not lines:
        return []
    path, config = context.run.path, context.config.verification
    effects = train_effects(path)
    members = source_members(path, lines)
    found = []
    for line, inside in zip(lines, members, strict=True):
        possible = effects is not None and 0 < inside.sum() < len(inside)
        forecast = predicted_loss_change(effects, inside) if possible and effects is not None else None
        found.append({**line, "forecast": forecast, "measured": None})
    most = config.sources if config.seeds else 0
    worst = [place for place, line in enumerate(found) if line["named"] and removable(members[place])][:most]
    for place, measured in zip(worst, measure(context, [members[place] for place in worst]), strict=True):
        found[place]["measured"] = measured
    return found


def removable(inside: np.ndarray) -> bool:
    """Whether leaving these rows out removes some rows and leaves some to train on."""
    return bool(0 < inside.sum() < len(inside))


def train_effects(run_path: Path) -> np.ndarray | None:
    """τ of the mean validation loss for each train row, float64 `[train rows]`; None if it was not scored."""
    harm = read_score(run_path, run_data(run_path), "validation_harm")
    return None if np.isnan(harm).any() else -harm


def source_members(run_path: Path, lines: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """The train rows that come from the source of each line, bool `[train rows]`."""
    columns: dict[str, SourceColumn] = {column.name: column for column in declared_sources(run_path)}
    found = []
    for line in lines:
        name = line["column"]
        if name not in columns:
            columns[name] = read_values(run_path, name, ["train"])
        column = columns[name]
        code = column.values.index(line["value"]) if line["value"] in column.values else -2
        found.append(column.codes == code)
    return found


def measure(context: AuditContext, removed: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Retrain without each set of rows, and compare with a retraining on all rows with the same seed."""
    if not removed:
        return []
    path, seed = context.run.path, context.config.verification.seed
    keep_only_current(folder(path), [WITHOUT], context.run)
    tasks: list[tuple[Any, ...]] = [(path, name, rows, seed) for name, rows in named(removed).items()]
    names = [
        "retraining with all sources",
        *(f"retraining without source {n + 1}" for n in range(len(removed))),
    ]
    run_missing(context, "verify: sources", _retrain_without, tasks, _task_path, names)
    given, *without = (load_file(_task_path(*task)) for task in tasks)
    return [compare(given, each, seed) for each in without]


def named(removed: Sequence[np.ndarray]) -> dict[str, np.ndarray | None]:
    """Name → set of removed rows; the first removes none.

    A name has the place of the set and a hash of its content, so that equal sets are trained separately.
    """
    names: dict[str, np.ndarray | None] = {ALL_ROWS: None}
    for place, rows in enumerate(removed):
        names[f"{place}-{hashlib.sha256(np.packbits(rows).tobytes()).hexdigest()[:16]}"] = rows
    return names


def folder(run_path: Path) -> Path:
    return run_path / "verification" / "sources"


def _task_path(run_path: Path, name: str, _rows: np.ndarray | None, seed: int) -> Path:
    return folder(run_path) / WITHOUT / f"{name}-{seed}.safetensors"


def _retrain_without(run_path: Path, name: str, rows: np.ndarray | None, seed: int) -> None:
    """Train without some rows and write the results of `train_and_measure` (a task for a worker)."""
    weights = class_weights(run_config(run_path).training, run_data(run_path))
    selection = Selection(keep=None if rows is None else ~rows, class_weights=weights)
    try:
        measured = train_and_measure(run_path, selection, seed)
    except WinnowError as error:
        raise WinnowError(f"retraining without a source: {error.message}", error.hint) from error
    save_tensors(_task_path(run_path, name, rows, seed), measured)


def compare(given: Mapping[str, np.ndarray], without: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """The changes from a training on all rows (`given`) to one without some rows, both with the same seed."""
    loss = "validation_loss"
    return {
        "seed": seed,
        "rows": int(without["rows"]),
        loss: float(without[loss] - given[loss]) if loss in without else None,
        "loss": over_rows(without["tail_losses"] - given["tail_losses"])
        if "tail_losses" in without
        else None,
        "metric": over_rows(without["tail_score"] - given["tail_score"]) if "tail_score" in without else None,
    }


def over_rows(differences: np.ndarray) -> dict[str, float]:
    """The mean of differences with its 95 % interval over rows; the pair of trainings is taken as fixed."""
    values = differences.astype(np.float64)
    mean = float(values.mean())
    half = NORMAL_QUANTILE * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return {"mean": mean, "low": mean - half, "high": mean + half}
