"""Audits with checkpoints that the user's own training loop recorded with `TrajectoryRecorder`.

The trajectory is copied into the run, and its folder is only read. The dynamics of an epoch are measured at the
checkpoint nearest to that epoch. The early window consists of the checkpoints within it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from pipeline.artifacts import Step
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.model.batchnorm import has_batchnorm
from pipeline.attribution.trajectory.trajectory import (
    FILE_NAME,
    TAIL_NAME,
    Checkpoint,
    Trajectory,
    write_trajectory,
)
from pipeline.attribution.trajectory.weights import RunningMean, restore_weights, save_weights
from pipeline.config import AuditConfig, digest
from pipeline.data.files import sha256_of
from pipeline.errors import InputError
from pipeline.runs.directory import link, read_json, write_atomically, write_json
from pipeline.training.batches import Selection
from pipeline.training.dynamics import epoch_path
from pipeline.training.main_run import (
    EARLY_TAIL,
    Curve,
    early_trajectory,
    main_directory,
    whole_trajectory,
)
from pipeline.training.setup import Setup, averaged_model, class_weights, deterministic, set_up
from pipeline.workers.worker import run_config, run_data

SAME_EPOCHS = 0.5
"""By how many epochs the last checkpoint may differ from `training.epochs`."""


def _recorded_files(trajectory: Trajectory) -> list[Path]:
    """All files of a trajectory; `trajectory.json` comes last, because it says that the other files are complete."""
    weights = [each.path for each in trajectory.checkpoints]
    states = [each.optimizer_path for each in trajectory.checkpoints if each.optimizer_path.exists()]
    tail = [] if trajectory.tail is None else [trajectory.tail]
    return [*weights, *states, *tail, trajectory.directory / FILE_NAME]


def load_recorded(directory: str) -> Trajectory:
    """Load the trajectory that `training.trajectory` names.

    Raises:
        InputError: there is no trajectory, it is damaged, or its optimizer is not supported.
    """
    with refused("training.trajectory"):
        return Trajectory.load(directory)


@contextmanager
def refused(key: str, hint: str | None = None) -> Iterator[None]:
    """Turn an AttributionError into an InputError about a key of the config.

    Args:
        key: the key, such as `training.trajectory`.
        hint: replaces the hint of the AttributionError.
    """
    try:
        yield
    except AttributionError as error:
        raise InputError(f"{key}: {error.message}", hint or error.hint) from error


def recorded_hash(directory: str) -> str:
    """A hash of the contents of all files of a trajectory; it stays the same when the folder is moved."""
    return digest({path.name: sha256_of(str(path)) for path in _recorded_files(load_recorded(directory))})


def check_recorded(config: AuditConfig, model: nn.Module, train_rows: int) -> Trajectory:
    """Load the configured trajectory and check that it fits the model, the data and the rest of the config.

    Args:
        config: the config, with `training.trajectory`.
        model: the model of the config; its weights are overwritten.
        train_rows: how many train rows the audit has.

    Raises:
        InputError: the trajectory does not fit; the message says in what.
    """
    assert config.training.trajectory is not None
    trajectory = load_recorded(config.training.trajectory)
    where = f"training.trajectory: {trajectory.directory}"
    if len(trajectory.stages) > 1:
        raise InputError(
            f"{where} has {len(trajectory.stages)} stages",
            "Audit a training in one stage, or use `attribute`.",
        )
    if trajectory.train_rows != train_rows:
        raise InputError(
            f"{where} was trained on {trajectory.train_rows:,} rows, but the audit has {train_rows:,} train rows",
            "Audit the very rows that the model was trained on.",
        )
    kind = trajectory.optimizer.kind
    if kind != config.training.optimizer:
        raise InputError(
            f"{where} was trained by {kind}, but training.optimizer is {config.training.optimizer}",
            "Let `training` say how the model was trained: halves and retrainings go by it.",
        )
    _check_epochs(config, trajectory, where)
    with refused("attribution.segments"):
        trajectory.segments(config.attribution.segments)
    with refused("training.trajectory"):
        for place, checkpoint in enumerate(trajectory.checkpoints):
            restore_weights(model, trajectory.load_weights(place), checkpoint.path)
        if trajectory.tail is not None:
            restore_weights(model, trajectory.load_tail(), trajectory.tail)
    if trajectory.optimizer.adaptive:
        with refused(
            "training.trajectory", "Record it again with TrajectoryRecorder, which keeps Adam's state."
        ):
            for place in range(len(trajectory.checkpoints)):
                trajectory.load_second_moments(place)
    return trajectory


def _check_epochs(config: AuditConfig, trajectory: Trajectory, where: str) -> None:
    last, epochs = trajectory.checkpoints[-1].epoch, config.training.known_epochs
    if last is not None and abs(last - epochs) > SAME_EPOCHS:
        raise InputError(
            f"{where} ends after {last:g} epochs, but training.epochs is {epochs}",
            f"Set training.epochs to {max(1, round(last))}.",
        )


def copy_recorded(trajectory: Trajectory, target: Path) -> None:
    """Copy a trajectory into `target`, unless it is there. Without a tail average, the last weights are used as one."""
    step = Step(target)
    if step.done:
        return
    *weights, record = _recorded_files(trajectory)
    for path in weights:
        with write_atomically(target / path.name) as temporary:
            shutil.copyfile(path, temporary)
    if trajectory.tail is None:
        save_weights(target / TAIL_NAME, trajectory.load_weights(-1))
    write_json(target / FILE_NAME, json.loads(record.read_text(encoding="utf-8")) | {"tail": TAIL_NAME})
    step.finish()


def _checkpoint_epochs(trajectory: Trajectory, epochs: int) -> list[float]:
    """The epoch of every checkpoint; if the training loop recorded none, it is computed from the checkpoint's step."""
    return [
        epochs * each.step / trajectory.steps if each.epoch is None else each.epoch
        for each in trajectory.checkpoints
    ]


def measure_recorded(run_path: Path) -> None:
    """Write from the checkpoints the files that `train_main` writes after every epoch (a task for a worker)."""
    directory, data, epochs = (
        main_directory(run_path),
        run_data(run_path),
        run_config(run_path).training.known_epochs,
    )
    trajectory = Trajectory.load(whole_trajectory(run_path))
    step = Step(directory)
    if step.done:
        return
    with deterministic():
        setup = _recorded_setup(run_path)
        _write_tail(setup, trajectory.load_tail(), whole_trajectory(run_path))
        curve, places = Curve(directory, setup, data, epochs), _checkpoint_epochs(trajectory, epochs)
        measured: dict[int, int] = {}
        for epoch in range(1, epochs + 1):
            nearest = min(range(len(places)), key=lambda place: abs(places[place] - epoch))
            first = measured.setdefault(nearest, epoch)
            if first == epoch:
                restore_weights(setup.model, trajectory.load_weights(nearest))
                curve.after_epoch(epoch)
                continue
            link(epoch_path(directory, epoch), epoch_path(directory, first))
            line = read_json(directory / f"epoch-{first:03d}.json") | {"epoch": epoch}
            write_json(directory / f"epoch-{epoch:03d}.json", line)
    step.finish()


def recorded_early_window(run_path: Path, early_epoch: int) -> None:
    """Write the trajectory of the early window from the checkpoints of the first 2·e* epochs (a task for a worker).

    The first checkpoint always belongs to it.
    """
    epochs, target = run_config(run_path).training.known_epochs, early_trajectory(run_path)
    step = Step(target)
    if 2 * early_epoch >= epochs or step.done:
        return
    trajectory = Trajectory.load(whole_trajectory(run_path))
    places = _checkpoint_epochs(trajectory, epochs)
    inside = max(1, sum(place <= 2 * early_epoch for place in places))
    kept = trajectory.checkpoints[:inside]
    second_half = [place for place in range(inside) if places[place] > 2 * early_epoch * (1 - EARLY_TAIL)]
    target.mkdir(parents=True, exist_ok=True)
    for checkpoint in kept:
        for path in (checkpoint.path, checkpoint.optimizer_path):
            if path.exists():
                link(target / path.name, path)
    mean = RunningMean()
    for place in second_half or [inside - 1]:
        mean.add(trajectory.load_weights(place))
    with deterministic():
        _write_tail(_recorded_setup(run_path), mean.mean(), target)
    write_trajectory(target, checkpoints=_records(kept), stages=trajectory.stages, steps=kept[-1].step)
    step.finish()


def _recorded_setup(run_path: Path) -> Setup:
    config, data = run_config(run_path).training, run_data(run_path)
    return set_up(run_path, Selection(class_weights=class_weights(config, data)), config.seed)


def _write_tail(setup: Setup, weights: dict[str, Tensor], directory: Path) -> None:
    """Write averaged weights; BatchNorm statistics are re-estimated on the train rows first."""
    if has_batchnorm(setup.model):
        weights = averaged_model(setup, weights).state_dict()
    save_weights(directory / TAIL_NAME, weights)


def _records(checkpoints: Sequence[Checkpoint]) -> list[dict[str, object]]:
    return [
        {
            "step": each.step,
            "epoch": each.epoch,
            "lr_sum": each.lr_sum,
            "stage": each.stage,
            "applied": each.applied,
        }
        for each in checkpoints
    ]
