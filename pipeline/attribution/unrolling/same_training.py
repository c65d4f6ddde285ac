"""The check that a trajectory and a recording for unrolling come from the same training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.optimizers import OptimizerSettings, ParameterGroup
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.unrolled_gauss_newton import WindowMeans


def check_same_training(trajectory: Trajectory, recording: Replay | WindowMeans) -> None:
    """Checks that a trajectory and a recording come from the same training.

    The check compares the sizes, the optimizer and its parameter groups, the learning rates of the first group and, for
    a ``Replay``, the final weights.

    Raises:
        AttributionError: something differs; the message says what.
    """
    different = [*_sizes(trajectory, recording), *_options(trajectory.optimizer, _settings(recording))]
    if not different:
        different = [*_rates(trajectory, recording), *_weights(trajectory, recording)]
    if different:
        raise AttributionError(
            f"The recording {recording.directory} is of another training than the trajectory "
            f"{trajectory.directory}: {'; '.join(different)}.",
            "Record both in the same training.",
        )


def _sizes(trajectory: Trajectory, recording: Replay | WindowMeans) -> Iterator[str]:
    if recording.steps != trajectory.steps:
        yield f"it has {recording.steps} steps and not {trajectory.steps}"
    if recording.train_rows != trajectory.train_rows:
        yield f"it has {recording.train_rows} training rows and not {trajectory.train_rows}"


def _options(ours: OptimizerSettings, theirs: OptimizerSettings) -> Iterator[str]:
    for field in fields(OptimizerSettings):
        own, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name != "groups" and own != other:
            yield f"the optimizer's {field.name} is {other} and not {own}"
    if len(ours.groups) != len(theirs.groups):
        yield f"it has {len(theirs.groups)} parameter groups and not {len(ours.groups)}"
        return
    for place, (mine, found) in enumerate(zip(ours.groups, theirs.groups, strict=True)):
        if mine.weight_decay != found.weight_decay:
            yield f"the weight decay of group {place} is {found.weight_decay} and not {mine.weight_decay}"
        # Trajectories of earlier versions don't name the parameters.
        names = (
            set(found.parameters or ()) ^ set(mine.parameters or ()) if mine.parameters is not None else ()
        )
        if names:
            yield f"one of both has no parameter {min(names)!r} in group {place}"


def _rates(trajectory: Trajectory, recording: Replay | WindowMeans) -> Iterator[str]:
    rates = recording.tensors["rates"] if isinstance(recording, Replay) else recording.rates
    start = 0
    for checkpoint in trajectory.checkpoints:
        found = float(rates[start : checkpoint.step, 0].sum())
        if not math.isclose(found, checkpoint.lr_sum, rel_tol=1e-9):
            yield f"the learning rates of steps {start + 1} to {checkpoint.step} differ"
            return
        start = checkpoint.step


def _weights(trajectory: Trajectory, recording: Replay | WindowMeans) -> Iterator[str]:
    last = len(trajectory.checkpoints) - 1
    if not isinstance(recording, Replay) or trajectory.checkpoints[last].step != recording.steps:
        return
    ours, theirs = trajectory.load_weights(last), recording.final_weights()
    for name in (name for group in recording.groups for name in group["parameters"]):
        if name in ours and name in theirs and not _equal(ours[name], theirs[name]):
            yield f"the final weights {name!r} differ"
            return


def _equal(first: Tensor, second: Tensor) -> bool:
    """Returns whether two tensors have equal values. NaN, from a training that diverged, equals NaN."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


def _settings(recording: Replay | WindowMeans) -> OptimizerSettings:
    """Returns the optimizer settings of a recording, in the form of ``optimizers.read_settings``."""
    groups = tuple(
        ParameterGroup(tuple(group["parameters"]), float(group["options"]["weight_decay"]))
        for group in recording.groups
    )
    options: Mapping[str, Any] = recording.groups[0]["options"]
    if recording.optimizer == "SGD":
        momentum, dampening = float(options["momentum"]), float(options["dampening"])
        return OptimizerSettings("sgd", groups, momentum, dampening, bool(options["nesterov"]))
    decoupled = options.get("decoupled_weight_decay", recording.optimizer == "AdamW")
    beta1, beta2 = (float(beta) for beta in options["betas"])
    return OptimizerSettings(
        "adamw" if decoupled else "adam", groups, beta1, beta2=beta2, eps=float(options["eps"])
    )
