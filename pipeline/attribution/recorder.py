"""Records a trajectory from inside any training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from pipeline.attribution.errors import AttributionError, OptimizerError
from pipeline.attribution.trajectory import TAIL_NAME, check_optimizer, weights_path, write_trajectory
from pipeline.attribution.weights import RunningMean, save_weights


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """Equally spaced steps after which to write a checkpoint; the last is the end of training.

    Raises:
        AttributionError: there are fewer steps than checkpoints.
    """
    if checkpoints < 1 or steps < checkpoints:
        raise AttributionError(
            f"{checkpoints} checkpoints don't fit in {steps} training steps.",
            "Train longer or keep fewer checkpoints.",
        )
    return [round(steps * place / checkpoints) for place in range(1, checkpoints + 1)]


def first_tail_step(steps: int, share: float) -> int:
    """The first step (counted from 1) whose weights are averaged: the last ``share`` of ``steps``."""
    return steps - max(1, round(share * steps)) + 1


class TrajectoryRecorder:
    """Writes checkpoints, the learning rates between them and the mean of the last iterates while you train.

    Args:
        model: the model in training; its state dict is saved, buffers included.
        optimizer: ``torch.optim.SGD`` with the same momentum, dampening, weight decay and learning rate for
            all parameters; a learning rate schedule is fine.
        directory: where the trajectory goes.
        checkpoints: how many, equally spaced.
        steps: how many optimizer steps training takes in all.
        train_rows: N, how many rows are trained on.
        tail: the share of the last steps whose weights are averaged; 0 keeps no average.

    Raises:
        OptimizerError: the optimizer isn't plain SGD as above.
        AttributionError: there are fewer steps than checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directory: str | Path,
        *,
        steps: int,
        train_rows: int,
        checkpoints: int = 6,
        tail: float = 0.25,
    ) -> None:
        self._model, self._optimizer, self._directory = model, optimizer, Path(directory)
        self._steps, self._train_rows = steps, train_rows
        self.checkpoint_steps = checkpoint_steps(steps, checkpoints)
        self._first_tail = first_tail_step(steps, tail) if tail > 0 else None
        self._settings = _settings(optimizer)
        self._mean = RunningMean()
        self._written: list[dict[str, float | None]] = []
        self._step, self._lr_sum = 0, 0.0

    def step(self, epoch: float | None = None) -> None:
        """Call after every ``optimizer.step()`` and before the schedule's; ``epoch`` is how many epochs are
        done.

        Raises:
            AttributionError: training takes more steps than announced.
            OptimizerError: the parameter groups' settings have come apart.
        """
        if self._step >= self._steps:
            raise AttributionError(
                f"Training goes on after the {self._steps} steps announced.",
                "Give the recorder the right `steps`.",
            )
        if _settings(self._optimizer) != self._settings:
            raise OptimizerError("Momentum or weight decay changed during training.", "Keep them constant.")
        self._step += 1
        self._lr_sum += float(self._optimizer.param_groups[0]["lr"])
        if self._first_tail is not None and self._step >= self._first_tail:
            self._mean.add(self._model.state_dict())
        if self._step in self.checkpoint_steps:
            save_weights(weights_path(self._directory, self._step), self._model.state_dict())
            self._written.append({"step": self._step, "epoch": epoch, "lr_sum": self._lr_sum})
            self._lr_sum = 0.0
        if self._step == self._steps:
            self._finish()

    def state_tensors(self) -> dict[str, Tensor]:
        """What ``restore`` needs to go on after an interruption, as a flat dictionary for safetensors."""
        epochs = [float("nan") if c["epoch"] is None else c["epoch"] for c in self._written]
        state = {
            "step": torch.tensor(self._step),
            "lr_sum": torch.tensor(self._lr_sum, dtype=torch.float64),
            "written": torch.tensor([c["step"] for c in self._written], dtype=torch.int64),
            "lr_sums": torch.tensor([c["lr_sum"] for c in self._written], dtype=torch.float64),
            "epochs": torch.tensor(epochs, dtype=torch.float64),
        }
        mean = self._mean.to_tensors() if self._mean.count else {}
        return state | {f"mean/{name}": tensor for name, tensor in mean.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where ``state_tensors`` was taken; the checkpoints written before must still be there."""
        self._step, self._lr_sum = int(state["step"]), float(state["lr_sum"])
        columns = (state[name].tolist() for name in ("written", "epochs", "lr_sums"))
        self._written = [
            {"step": step, "epoch": None if math.isnan(epoch) else epoch, "lr_sum": lr_sum}
            for step, epoch, lr_sum in zip(*columns, strict=True)
        ]
        mean = {name.removeprefix("mean/"): t for name, t in state.items() if name.startswith("mean/")}
        self._mean = RunningMean.from_tensors(mean) if mean else RunningMean()

    def _finish(self) -> None:
        if self._first_tail is not None:
            save_weights(self._directory / TAIL_NAME, self._mean.mean())
        write_trajectory(
            self._directory,
            checkpoints=self._written,
            steps=self._steps,
            train_rows=self._train_rows,
            tail=None if self._first_tail is None else TAIL_NAME,
            momentum=self._settings["momentum"],
            dampening=self._settings["dampening"],
            weight_decay=self._settings["weight_decay"],
        )


def _settings(optimizer: Optimizer) -> dict[str, float]:
    """Momentum, dampening and weight decay, the same for all parameter groups."""
    if type(optimizer) is not SGD:
        check_optimizer(type(optimizer).__name__)
    groups = optimizer.param_groups
    for key in ("lr", "momentum", "dampening", "weight_decay", "maximize"):
        if any(group[key] != groups[0][key] for group in groups):
            raise OptimizerError(f"Parameter groups differ in {key!r}.", "Use the same for all parameters.")
    if groups[0]["maximize"]:
        raise OptimizerError("The optimizer maximises.", "Minimise a loss.")
    return {key: float(groups[0][key]) for key in ("momentum", "dampening", "weight_decay")}
