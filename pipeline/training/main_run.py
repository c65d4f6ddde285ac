"""The main run, the training that is audited: checkpoints of the whole run and its early window, and dynamics."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pipeline.artifacts import Step
from pipeline.attribution.model.batchnorm import has_batchnorm
from pipeline.attribution.trajectory.recorder import TrajectoryRecorder
from pipeline.attribution.trajectory.trajectory import TAIL_NAME
from pipeline.attribution.trajectory.weights import load_weights, save_weights
from pipeline.data.encoded import EncodedData
from pipeline.runs.directory import read_json, write_json
from pipeline.runs.tensors import save_tensors
from pipeline.training.batches import Selection
from pipeline.training.dynamics import epoch_path, evaluate_role
from pipeline.training.loop import train
from pipeline.training.observer import Observer
from pipeline.training.optimizer import optimizer_tensors
from pipeline.training.recipe import steps_per_epoch
from pipeline.training.setup import Setup, averaged_model, class_weights, deterministic, set_up
from pipeline.workers.worker import emit_progress, run_config, run_data

EARLY_TAIL = 0.5
"""The share of the early window's last steps whose weights are averaged; queries are measured at this average."""


def whole_trajectory(run_path: Path) -> Path:
    return run_path / "checkpoints"


def early_trajectory(run_path: Path) -> Path:
    return run_path / "checkpoints" / "early"


def main_directory(run_path: Path) -> Path:
    return run_path / "training" / "main"


class CheckpointObserver:
    """A trajectory recorder as an observer of the training loop.

    The recorder writes Adam's second moments beside each checkpoint; this class writes the momentum of SGD there.
    """

    def __init__(self, setup: Setup, directory: Path, checkpoints: int, steps: int, tail: float):
        self._setup, self._directory = setup, directory
        self.recorder = TrajectoryRecorder(
            setup.model,
            setup.optimizer,
            directory,
            checkpoints=checkpoints,
            steps=steps,
            train_rows=setup.rows.count,
            tail=tail,
        )
        self.steps = steps
        self._per_epoch = steps_per_epoch(setup.rows.count, setup.recipe.batch_size)

    def after_step(self, step: int) -> None:
        if step > self.steps:
            return
        self.recorder.step(epoch=step / self._per_epoch)
        if step == self.steps and has_batchnorm(self._setup.model):
            path = self._directory / TAIL_NAME
            save_weights(path, averaged_model(self._setup, load_weights(path)).state_dict())
        if step in self.recorder.checkpoint_steps and self._setup.recipe.optimizer == "sgd":
            state = optimizer_tensors(self._setup.model, self._setup.optimizer)
            save_tensors(self._directory / f"{step}.optimizer.safetensors", state)

    def state_tensors(self) -> dict[str, Tensor]:
        return self.recorder.state_tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.recorder.restore(tensors)


def train_main(run_path: Path, early_epoch: int | None) -> None:
    """Train on all train rows (a task for a worker).

    Args:
        run_path: the run directory.
        early_epoch: e*; the checkpoints of the early window, the first 2·e* epochs, are recorded too. None records
            no early window.
    """
    config, data = run_config(run_path).training, run_data(run_path)
    directory = main_directory(run_path)
    state = directory / "state.safetensors"
    step = Step(directory, whole_trajectory(run_path))
    if step.done:
        state.unlink(missing_ok=True)
        return
    if not step.intact:  # resuming from the state would not replace damaged earlier files
        state.unlink(missing_ok=True)
    selection = Selection(class_weights=class_weights(config, data))
    with deterministic():
        setup = set_up(run_path, selection, config.seed)
        observers: dict[str, Observer] = {
            "whole": CheckpointObserver(
                setup, whole_trajectory(run_path), config.checkpoints, setup.recipe.steps, config.query_tail
            )
        }
        if early_epoch is not None and 2 * early_epoch < config.known_epochs:
            observers["early"] = _early_observer(run_path, setup, early_epoch)
        curve = Curve(directory, setup, data, config.known_epochs)
        steps = set(observers["whole"].recorder.checkpoint_steps)  # type: ignore[attr-defined]
        train(
            setup,
            observers,
            after_epoch=curve.after_epoch,
            state=(state, steps),
        )
    step.finish(state)


def train_early_window(run_path: Path, early_epoch: int) -> None:
    """Repeat the first 2·e* epochs of the main run to record their checkpoints (a task for a worker).

    This is needed when e* was not known before the main run began. The repeat has the same bits.
    """
    config, data = run_config(run_path).training, run_data(run_path)
    step = Step(early_trajectory(run_path))
    if 2 * early_epoch >= config.known_epochs or step.done:
        return
    with deterministic():
        setup = set_up(run_path, Selection(class_weights=class_weights(config, data)), config.seed)
        observer = _early_observer(run_path, setup, early_epoch)
        train(
            setup,
            {"early": observer},
            stop_after=observer.steps,
        )
    step.finish()


def _early_observer(run_path: Path, setup: Setup, early_epoch: int) -> CheckpointObserver:
    per_epoch = steps_per_epoch(setup.rows.count, setup.recipe.batch_size)
    steps = 2 * early_epoch * per_epoch
    checkpoints = min(run_config(run_path).training.checkpoints, steps)
    return CheckpointObserver(setup, early_trajectory(run_path), checkpoints, steps, EARLY_TAIL)


class Curve:
    """Writes after every epoch the dynamics of all train rows, and a JSON file of means for the report's curve."""

    def __init__(self, directory: Path, setup: Setup, data: EncodedData, epochs: int):
        self._directory, self._setup, self._data, self._epochs = directory, setup, data, epochs

    def after_epoch(self, epoch: int) -> None:
        setup, score = self._setup, self._data.encoding.target.score
        path = epoch_path(self._directory, epoch)
        measured = evaluate_role(setup.model, setup.plain, self._data, "train", setup.device, path=path)
        line = {"epoch": epoch, "train_loss": measured["loss"].double().mean().item()}
        line |= {"train_metric": score(measured, role_labels(self._data, "train"))}
        if self._data.count("validation"):
            measured = evaluate_role(setup.model, setup.plain, self._data, "validation", setup.device)
            line["validation_loss"] = measured["loss"].double().mean().item()
            line["validation_metric"] = score(measured, role_labels(self._data, "validation"))
        write_json(self._directory / f"epoch-{epoch:03d}.json", line)
        emit_progress("main run", epoch, self._epochs)


def role_labels(data: EncodedData, role: str) -> Tensor:
    """The labels of a role's rows.

    Returns:
        `[rows]` class indices for classification, int16 if they fit and else int32; `[rows]` float32 standardised
        targets for regression; `[rows, labels]` uint8 for multi-label.
    """
    labels = data.encoding.target.empty_labels(data.count(role), data.encoding.outputs)
    for chunk in data.chunks(role):
        labels[chunk.first : chunk.first + chunk.rows] = data.load(chunk).labels
    return labels


def read_curve(run_path: Path, epochs: int) -> list[dict[str, float]]:
    directory = main_directory(run_path)
    return [read_json(directory / f"epoch-{epoch:03d}.json") for epoch in range(1, epochs + 1)]
