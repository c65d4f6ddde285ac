"""The recorder for smoothed unrolling, which writes the mean weights of equal windows of training.

A recording is a folder:

    pieces.json              optimizer, its groups, steps, training rows, batch size, the first step of each window
    rates.safetensors        the learning rates of each step
    piece-<i>.safetensors    the mean of the weights and buffers in a window, and of Adam's second moments
    tail.safetensors         the mean of the weights after each of the last steps
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.attribution.atomic import write_atomically
from pipeline.attribution.errors import AttributionError, CheckpointError
from pipeline.attribution.trajectory.recorder import check_announced, first_tail_step
from pipeline.attribution.trajectory.weights import (
    RunningMean,
    load_weights,
    save_weights,
    write_tensors,
)
from pipeline.attribution.unrolling.updates import check_step, check_unrollable, group_records

RECORD_NAME, RATES_NAME, WINDOWS_TAIL_NAME = "pieces.json", "rates.safetensors", "tail.safetensors"
SECOND_MOMENT = "exp_avg_sq"


class WindowRecorder:
    """Records the mean weights of windows of training. Call ``step()`` after every ``optimizer.step()``.

    Args:
        model: the model in training.
        optimizer: ``SGD`` without dampening, or ``Adam`` or ``AdamW`` without amsgrad.
        directory: the folder of the recording. A recording that is there already is discarded.
        steps: T, the number of optimizer steps of training.
        train_rows: N, the number of training rows.
        batch_size: the number of rows of a batch, by which the sum of their losses is divided.
        windows: the number of equal windows that training is cut into.
        tail: the share of the last steps over which the weights of the query are averaged; 0 takes the final weights.

    Raises:
        OptimizerError: training with the optimizer can't be unrolled.
        AttributionError: a number is less than 1, or ``tail`` isn't between 0 and 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directory: str | Path,
        *,
        steps: int,
        train_rows: int,
        batch_size: int,
        windows: int = 24,
        tail: float = 0.5,
    ) -> None:
        check_announced(steps, train_rows, tail)
        for name, number in (("batch_size", batch_size), ("windows", windows)):
            if number < 1:
                raise AttributionError(f"{name} is {number}.", "Give 1 at least.")
        self._rule = check_unrollable(optimizer)
        self._model, self._optimizer, self._directory = model, optimizer, Path(directory)
        self._sizes = {"steps": steps, "train_rows": train_rows, "batch_size": batch_size}
        self._starts = sorted({steps * window // windows for window in range(windows)})
        self._first_tail = first_tail_step(steps, tail) if tail > 0 else steps
        self._groups = group_records(model, optimizer)
        self._rates: list[list[float]] = []
        self._window, self._tail = RunningMean(), RunningMean()
        # A pieces.json that is there belongs to another training.
        (self._directory / RECORD_NAME).unlink(missing_ok=True)

    def step(self) -> None:
        """Records one step. Call it after ``optimizer.step()`` and before the ``step()`` of a scheduler.

        Raises:
            AttributionError: training takes more steps than announced.
            OptimizerError: an option other than the learning rate changed.
        """
        done, total = len(self._rates) + 1, self._sizes["steps"]
        check_step(done, total, group_records(self._model, self._optimizer), self._groups)
        self._rates.append([float(group["lr"]) for group in self._optimizer.param_groups])
        state = self._model.state_dict()
        self._window.add({f"model/{name}": tensor for name, tensor in state.items()} | self._moments())
        if done >= self._first_tail:
            self._tail.add(state)
        if done in self._starts or done == total:
            window = self._starts.index(done) - 1 if done < total else len(self._starts) - 1
            save_weights(window_path(self._directory, window), self._window.mean())
            self._window = RunningMean()
        if done == total:
            self._finish()

    def _moments(self) -> dict[str, Tensor]:
        if SECOND_MOMENT not in self._rule.slots:
            return {}
        states = {name: self._optimizer.state.get(p, {}) for name, p in self._model.named_parameters()}
        return {
            f"{SECOND_MOMENT}/{name}": state[SECOND_MOMENT]
            for name, state in states.items()
            if SECOND_MOMENT in state
        }

    def _finish(self) -> None:
        save_weights(self._directory / WINDOWS_TAIL_NAME, self._tail.mean())
        with write_atomically(self._directory / RATES_NAME) as temporary:
            write_tensors({"rates": torch.tensor(self._rates, dtype=torch.float64)}, temporary)
        record: dict[str, Any] = {
            "optimizer": type(self._optimizer).__name__,
            "groups": self._groups,
            "tail_steps": self._sizes["steps"] - self._first_tail + 1,
            "starts": self._starts,
            **self._sizes,
        }
        with write_atomically(self._directory / RECORD_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def window_path(directory: Path, window: int) -> Path:
    """Returns the path of the means over a window."""
    return directory / f"piece-{window}.safetensors"


def read_record(directory: Path) -> tuple[dict[str, Any], Tensor]:
    """Reads the record of a recording.

    Returns:
        (content of ``pieces.json``, learning rates float64 ``[steps, groups]``).

    Raises:
        CheckpointError: the recording is missing or damaged.
    """
    path = directory / RECORD_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8")), load_weights(directory / RATES_NAME)["rates"]
    except FileNotFoundError as error:
        raise CheckpointError(
            f"There is no recording at {path}.", "Record one with WindowRecorder while training."
        ) from error
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}).", "Train again to record it anew.") from error
