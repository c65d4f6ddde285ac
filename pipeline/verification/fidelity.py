"""Fidelity: how well an audit's own attributions predict what retraining without random groups of rows measures.

Each group is a random tenth of the train rows, the model is retrained without it as verification retrains, and the
measured change of the mean validation loss is compared with the predicted one. All begin with the same weights, so
that they differ by their rows and the order of these; controls, retrainings of all rows in other orders, say how much
of what was measured is noise, which no attribution predicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy.stats import f as fisher

from pipeline import artifacts
from pipeline.errors import WinnowError
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, read_json, remove, write_json
from pipeline.runs.tensors import save_tensors
from pipeline.training.batches import Selection
from pipeline.training.setup import class_weights
from pipeline.verification.forecast import validation_effects
from pipeline.verification.lds import (
    LEVELS,
    Estimate,
    linear_correlation,
    predicted_change,
    random_mask,
    slope,
)
from pipeline.verification.retrain import run_missing, train_and_measure
from pipeline.workers.worker import run_config, run_data

REMOVED_SHARE = 0.1
HIGH, MODERATE = 0.6, 0.3
"""Correlations from which fidelity is called so; high asks for an interval above MODERATE, moderate for one above 0."""
TIGHT = 1.0
"""A slope can calibrate forecasts when its interval excludes 0 and is no wider than this share of it."""
BY_GROUPS = "fidelity groups"
FEWEST_CONTROLS = 4
FIRST_ORDER = 1_000_000
"""Orders of the controls are counted from here, away from all seeds."""


def removed_group(rows: int, group: int, seed: int) -> np.ndarray:
    """bool `[rows]`: a tenth of the rows, the same for equal numbers and seeds."""
    return random_mask(rows, REMOVED_SHARE, "fidelity group", seed, group)


def folder(run_path: Path) -> Path:
    return run_path / "fidelity"


def group_path(run_path: Path, group: int, seed: int) -> Path:
    return folder(run_path) / "groups" / f"{group}-{seed}.safetensors"


def control_path(run_path: Path, control: int, seed: int) -> Path:
    return folder(run_path) / "groups" / f"control-{control}-{seed}.safetensors"


def controls(groups: int) -> int:
    """How many retrainings of all rows go with so many groups."""
    return max(FEWEST_CONTROLS, groups // 4) if groups else 0


def retrain_group(run_path: Path, group: int, seed: int) -> None:
    """Train without a group and write what `train_and_measure` gives (a task for a worker).

    Raises WinnowError, with the group, when the training diverges.
    """
    data = run_data(run_path)
    removed = removed_group(data.count("train"), group, seed)
    selection = Selection(keep=~removed, class_weights=class_weights(run_config(run_path).training, data))
    try:
        measured = train_and_measure(run_path, selection, seed)
    except WinnowError as error:
        raise WinnowError(f"retraining without group {group}: {error.message}", error.hint) from error
    save_tensors(group_path(run_path, group, seed), measured)


def retrain_control(run_path: Path, control: int, seed: int) -> None:
    """Train on all rows, beginning as the groups do, in an order of its own (a task for a worker)."""
    selection = Selection(class_weights=class_weights(run_config(run_path).training, run_data(run_path)))
    try:
        measured = train_and_measure(run_path, selection, seed, order=FIRST_ORDER + control)
    except WinnowError as error:
        raise WinnowError(f"retraining control {control}: {error.message}", error.hint) from error
    save_tensors(control_path(run_path, control, seed), measured)


def measure_fidelity(context: AuditContext, count: int) -> dict[str, Any] | None:
    """Retrain without each of `count` groups and compare; for verification.json.

    groups, removed_share, controls: how many retrainings of all rows; predicted, measured: changes of the mean
    validation loss in nats, one per group, measured against the mean of the controls; correlation, slope (measured on
    predicted): value, low, high, 95 % bootstrap intervals over groups; noise: what `noise_share` gives; level: high,
    moderate or low.

    None when it is off or there is no harm to the validation loss.
    """
    path, config = context.run.path, context.config.verification
    effects = validation_effects(path)
    if not (count and config.seeds) or effects is None:
        return None
    keep_only_current(folder(path), ["groups"], context.run)
    whole = [(path, control, config.seed) for control in range(controls(count))]
    names = [f"retraining control {control}" for _, control, _ in whole]
    run_missing(context, "verify: controls", retrain_control, whole, control_path, names)
    groups = [(path, group, config.seed) for group in range(count)]
    names = [f"retraining without group {group}" for _, group, _ in groups]
    run_missing(context, "verify: fidelity", retrain_group, groups, group_path, names)
    given = validation_losses([control_path(*task) for task in whole])
    without = validation_losses([group_path(*task) for task in groups])
    removed = np.stack([removed_group(len(effects), group, config.seed) for group in range(count)])
    return compare(effects, removed, without, given)


def compare(
    effects: np.ndarray, removed: np.ndarray, without: np.ndarray, given: np.ndarray
) -> dict[str, Any]:
    """effects: τ `[rows]`; removed: bool `[groups, rows]`; validation losses without each group and of all rows."""
    predicted = predicted_change(effects[None], removed, steps_kept=True)
    measured = (without - given.mean())[:, None]
    correlation = linear_correlation(measured, predicted)
    return {
        "groups": len(removed),
        "removed_share": REMOVED_SHARE,
        "controls": len(given),
        "predicted": predicted[:, 0].tolist(),
        "measured": measured[:, 0].tolist(),
        "correlation": correlation.as_json(),
        "slope": slope(measured, predicted).as_json(),
        "noise": noise_share(without, given, correlation.value),
        "level": level(correlation),
    }


def noise_share(without: np.ndarray, given: np.ndarray, correlation: float = 0.0) -> dict[str, Any]:
    """How much of the variance between groups is that of retraining, and the correlation that this leaves room for.

    retraining, groups: standard deviations in nats, of the controls and of the groups; share: of variances, value,
    low, high by the F distribution, at most 1, and no more than what the scores leave unexplained; ceiling:
    √(1 − share), what a perfect attribution would reach.
    """
    noise, total = given.var(ddof=1), without.var(ddof=1)
    ratio = noise / total if total > 0 else math.inf
    degrees = len(given) - 1, len(without) - 1
    low, high = (ratio / float(fisher.ppf(1 - each / 100, *degrees)) for each in LEVELS)
    high, most = min(1.0, float(high)), 1 - max(0.0, correlation) ** 2
    value, low = (min(most, high, float(each)) for each in (ratio, low))
    return {
        "retraining": float(np.sqrt(noise)),
        "groups": float(np.sqrt(total)),
        "share": {"value": value, "low": low, "high": high},
        "ceiling": math.sqrt(1 - value),
    }


def level(correlation: Estimate) -> str:
    if correlation.value < MODERATE or correlation.low <= 0:
        return "low"
    return "high" if correlation.value >= HIGH and correlation.low >= MODERATE else "moderate"


def calibration(fidelity: dict[str, Any] | None) -> float | None:
    """What forecasts are to be multiplied by; None where the slope is not well determined."""
    if fidelity is None:
        return None
    value, low, high = (fidelity["slope"][end] for end in ("value", "low", "high"))
    return value if low > 0 and high - low <= TIGHT * value else None


def validation_losses(paths: list[Path]) -> np.ndarray:
    return np.array([float(load_file(path)["validation_loss"]) for path in paths])


def keep_only_current(place: Path, pieces: Sequence[str], run: RunDirectory) -> None:
    """Retrainings without random rows depend on the rows and the training alone: of other ones they are removed."""
    marker = place / "training.json"
    current = {"fingerprint": run.record["stages"]["train"]["fingerprint"]}
    kept = [place / name for name in pieces]
    in_run = place.absolute().is_relative_to(run.path.absolute())
    artifacts.begin_journal(run.path if in_run else place)  # results may be asked for elsewhere
    artifacts.sweep([marker, *kept])
    if not marker.exists() or read_json(marker) != current:
        for path in kept:
            remove(path)
    write_json(marker, current)
