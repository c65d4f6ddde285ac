"""Fidelity: how well an audit's attributions predict the effect of retraining without random groups of rows.

Each group is a random tenth of the train rows. The model is retrained without the group, as verification retrains, and
the measured change of the mean validation loss is compared with the predicted change. All retrainings begin with the
same weights, so that they differ only by their rows and the order of these. Controls are retrainings on all rows in
other orders. They measure how much of the measured change is noise, which no attribution can predict.
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
"""The least correlations of high and of moderate fidelity; the interval of a high one must also lie above MODERATE,
and that of a moderate one above 0."""
TIGHT = 1.0
"""A slope may calibrate forecasts if its interval lies above 0 and is no wider than this multiple of the slope."""
BY_GROUPS = "fidelity groups"
FEWEST_CONTROLS = 4
FIRST_ORDER = 1_000_000
"""The seeds of the controls' row orders begin here, so that they differ from all other seeds."""


def removed_group(rows: int, group: int, seed: int) -> np.ndarray:
    """The rows of a group, bool `[rows]`: a random tenth that depends on the number of the group and the seed alone."""
    return random_mask(rows, REMOVED_SHARE, "fidelity group", seed, group)


def folder(run_path: Path) -> Path:
    return run_path / "fidelity"


def group_path(run_path: Path, group: int, seed: int) -> Path:
    return folder(run_path) / "groups" / f"{group}-{seed}.safetensors"


def _control_path(run_path: Path, control: int, seed: int) -> Path:
    return folder(run_path) / "groups" / f"control-{control}-{seed}.safetensors"


def controls(groups: int) -> int:
    """How many controls go with a number of groups."""
    return max(FEWEST_CONTROLS, groups // 4) if groups else 0


def _retrain_group(run_path: Path, group: int, seed: int) -> None:
    """Train without a group and write the results of `train_and_measure` (a task for a worker).

    Raises:
        WinnowError: the training diverges; the message names the group.
    """
    data = run_data(run_path)
    removed = removed_group(data.count("train"), group, seed)
    selection = Selection(keep=~removed, class_weights=class_weights(run_config(run_path).training, data))
    try:
        measured = train_and_measure(run_path, selection, seed)
    except WinnowError as error:
        raise WinnowError(f"retraining without group {group}: {error.message}", error.hint) from error
    save_tensors(group_path(run_path, group, seed), measured)


def _retrain_control(run_path: Path, control: int, seed: int) -> None:
    """Train on all rows from the same weights as the groups, in another order (a task for a worker).

    Raises:
        WinnowError: the training diverges; the message names the control.
    """
    selection = Selection(class_weights=class_weights(run_config(run_path).training, run_data(run_path)))
    try:
        measured = train_and_measure(run_path, selection, seed, order=FIRST_ORDER + control)
    except WinnowError as error:
        raise WinnowError(f"retraining control {control}: {error.message}", error.hint) from error
    save_tensors(_control_path(run_path, control, seed), measured)


def measure_fidelity(context: AuditContext, count: int) -> dict[str, Any] | None:
    """Retrain without each of `count` random groups and compare the effects with the predicted ones.

    Returns:
        The entry of verification.json; None if fidelity is off or harm to the validation loss was not scored.

        - groups, controls: how many retrainings there are of each kind. removed_share: the share of rows in a group.
        - predicted, measured: changes of the mean validation loss in nats, one per group; measured changes are taken
          against the mean of the controls.
        - correlation, slope (of measured on predicted): value, low and high of the 95 % bootstrap interval over groups.
        - noise: the result of `noise_share`.
        - level: high, moderate or low.
    """
    path, config = context.run.path, context.config.verification
    effects = validation_effects(path)
    if not (count and config.seeds) or effects is None:
        return None
    keep_only_current(folder(path), ["groups"], context.run)
    whole = [(path, control, config.seed) for control in range(controls(count))]
    names = [f"retraining control {control}" for _, control, _ in whole]
    run_missing(context, "verify: controls", _retrain_control, whole, _control_path, names)
    groups = [(path, group, config.seed) for group in range(count)]
    names = [f"retraining without group {group}" for _, group, _ in groups]
    run_missing(context, "verify: fidelity", _retrain_group, groups, group_path, names)
    given = validation_losses([_control_path(*task) for task in whole])
    without = validation_losses([group_path(*task) for task in groups])
    removed = np.stack([removed_group(len(effects), group, config.seed) for group in range(count)])
    return compare(effects, removed, without, given)


def compare(
    effects: np.ndarray, removed: np.ndarray, without: np.ndarray, given: np.ndarray
) -> dict[str, Any]:
    """Compare predicted and measured effects of the groups; see `measure_fidelity` for the result.

    Args:
        effects: τ, float `[rows]`.
        removed: bool `[groups, rows]`.
        without: mean validation loss without each group, float `[groups]`.
        given: mean validation loss of each control, float `[controls]`.
    """
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
    """How much of the variance between the groups is noise of retraining, and which correlation this allows.

    Args:
        without: mean validation loss without each group, float `[groups]`.
        given: mean validation loss of each control, float `[controls]`.
        correlation: of measured and predicted changes.

    Returns:
        - retraining, groups: standard deviations of the controls and of the groups, in nats.
        - share: noise variance divided by the variance of the groups; value, low and high by the F distribution. It is
          at most 1, and value and low are at most the share of variance that the scores leave unexplained.
        - ceiling: √(1 − share), the correlation that perfect attributions would reach.
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
    """The factor that calibrates forecasts, the slope of fidelity; None if the slope is not well determined."""
    if fidelity is None:
        return None
    value, low, high = (fidelity["slope"][end] for end in ("value", "low", "high"))
    return value if low > 0 and high - low <= TIGHT * value else None


def validation_losses(paths: list[Path]) -> np.ndarray:
    return np.array([float(load_file(path)["validation_loss"]) for path in paths])


def keep_only_current(place: Path, pieces: Sequence[str], run: RunDirectory) -> None:
    """Remove earlier results that belong to another training.

    These results depend on the train rows and the training alone, so that they are kept when later stages run anew.

    Args:
        place: the folder of the results; a marker in it names the training.
        pieces: names of files and folders in `place` that are removed.
        run: the run.
    """
    marker = place / "training.json"
    current = {"fingerprint": run.record["stages"]["train"]["fingerprint"]}
    kept = [place / name for name in pieces]
    in_run = place.absolute().is_relative_to(run.path.absolute())
    artifacts.begin_journal(run.path if in_run else place)  # results may lie outside the run
    artifacts.sweep([marker, *kept])
    if not marker.exists() or read_json(marker) != current:
        for path in kept:
            remove(path)
    write_json(marker, current)
