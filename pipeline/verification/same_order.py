"""Fidelity with the order of training held fixed, which tells noise of training from errors of the scores.

The groups are those of fidelity. Each retraining repeats the main training: the same initial weights, the same batches
and the same random numbers of dropout. The removed rows keep their places with the weight 0, and the loss of a batch is
divided by the same number as before. So a batch without some of its rows takes a smaller step, and the change is that
of the weights of the removed rows alone: its derivative is the sum of the rows' effects, which is what attribution
predicts. (Data weights of MAGIC, arXiv 2504.16430, are set to 0 in the same way.) Dividing by the number of rows that
are left would give the other rows of these batches more weight, which depends on the order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import WinnowError
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.seeds import random_state
from pipeline.training.batches import Selection
from pipeline.training.setup import class_weights
from pipeline.verification.fidelity import folder, removed_group, validation_losses
from pipeline.verification.forecast import validation_effects
from pipeline.verification.lds import (
    LEVELS,
    RESAMPLES,
    Estimate,
    linear_correlation,
    pearson,
    predicted_change,
    slope,
)
from pipeline.verification.retrain import run_missing, train_and_measure
from pipeline.workers.worker import run_config, run_data

ALL_ROWS = -1
"""The number that stands for the retraining from which no group is removed."""


def same_order_path(run_path: Path, group: int, seed: int) -> Path:
    """The result of a retraining; `seed` chose the rows of the group."""
    name = "all" if group == ALL_ROWS else f"{group}-{seed}"
    return folder(run_path) / "groups" / f"same-order-{name}.safetensors"


def _retrain(run_path: Path, group: int, seed: int) -> None:
    """Repeat the main training without a group and write the results of `train_and_measure` (a task for a worker).

    Raises:
        WinnowError: the training diverges; the message names the group.
    """
    config, data = run_config(run_path).training, run_data(run_path)
    removed = None if group == ALL_ROWS else removed_group(data.count("train"), group, seed)
    selection = Selection(weightless=removed, class_weights=class_weights(config, data))
    try:
        measured = train_and_measure(run_path, selection, config.seed)
    except WinnowError as error:
        raise WinnowError(f"{_name(group)}: {error.message}", error.hint) from error
    save_tensors(same_order_path(run_path, group, seed), measured)


def _name(group: int) -> str:
    of_what = "on all rows" if group == ALL_ROWS else f"without group {group}"
    return f"retraining {of_what} in the same order"


def measure_same_order(context: AuditContext, fidelity: dict[str, Any]) -> dict[str, Any]:
    """Retrain without the groups of fidelity in the order of the main training.

    Args:
        context: of the audit.
        fidelity: the result of `measure_fidelity`.

    Returns:
        `fidelity["same_order"]`, the result of `compare_same_order`.
    """
    path, seed, count = context.run.path, context.config.verification.seed, fidelity["groups"]
    effects = validation_effects(path)
    assert effects is not None  # fidelity was measured
    groups = [ALL_ROWS, *range(count)]
    tasks, names = [(path, group, seed) for group in groups], [_name(group) for group in groups]
    run_missing(context, "verify: same order", _retrain, tasks, same_order_path, names)
    given, *without = validation_losses([same_order_path(*task) for task in tasks])
    removed = np.stack([removed_group(len(effects), group, seed) for group in range(count)])
    return compare_same_order(
        predicted_change(effects[None], removed)[:, 0], np.array(without) - given, fidelity
    )


def compare_same_order(
    predicted: np.ndarray, measured: np.ndarray, fidelity: dict[str, Any]
) -> dict[str, Any]:
    """Compare predicted and measured effects of the groups with the order fixed, and both with fidelity across seeds.

    Args:
        predicted, measured: changes of the mean validation loss, float `[groups]`.
        fidelity: the result of `measure_fidelity` for the same groups.

    Returns:
        - retrainings: how many there were. predicted, measured: one per group, in nats.
        - correlation, slope: as in fidelity.
        - noise_of_infidelity: the share of fidelity's infidelity that is noise of training, value, low and high.
          Infidelity is the share 1 − r² of the variance between the groups that the scores leave unexplained. The part
          that goes away with the order fixed is noise. None if the scores explain everything across seeds.
        - across: the correlation of the effects measured in the same order with those measured across seeds. It is
          what scores that are exact for this one training would reach across seeds.
    """
    across = np.array(fidelity["measured"])
    return {
        "retrainings": len(measured) + 1,
        "predicted": predicted.tolist(),
        "measured": measured.tolist(),
        "correlation": linear_correlation(measured[:, None], predicted[:, None]).as_json(),
        "slope": slope(measured[:, None], predicted[:, None]).as_json(),
        "noise_of_infidelity": _noise(predicted, measured, across),
        "across": linear_correlation(across[:, None], measured[:, None]).as_json(),
    }


def _noise(predicted: np.ndarray, same: np.ndarray, across: np.ndarray) -> dict[str, float] | None:
    """The share of the infidelity that goes away with the order fixed, with a bootstrap interval over groups."""
    state = random_state("same order bootstrap")
    places = [np.arange(len(same)), *state.randint(0, len(same), (RESAMPLES, len(same)))]
    found = np.array([_share(*(each[place] for each in (predicted, same, across))) for place in places])
    if np.isnan(found[0]):
        return None
    low, high = np.nanpercentile(found[1:], LEVELS)
    return Estimate(float(found[0]), float(low), float(high)).as_json()


def _share(predicted: np.ndarray, same: np.ndarray, across: np.ndarray) -> float:
    """The share for some groups; NaN if nothing is left unexplained. A negative correlation explains nothing."""
    fixed, varied = (
        max(0.0, float(pearson(each[:, None], predicted[:, None])[0])) for each in (same, across)
    )
    if varied >= 1:
        return float("nan")
    return float(np.clip((fixed**2 - varied**2) / (1 - varied**2), 0, 1))
