"""The recorder, which writes a trajectory from inside any training loop."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.attribution.errors import AttributionError, OptimizerError
from pipeline.attribution.trajectory.measured_steps import StepMeasures
from pipeline.attribution.trajectory.optimizers import (
    AppliedSums,
    constant_settings,
    present_momentum,
    read_settings,
    second_moments,
    unwrapped_optimizer,
)
from pipeline.attribution.trajectory.trajectory import (
    FILE_NAME,
    MOMENT,
    TAIL_NAME,
    TrainingStage,
    stage_from_record,
    stage_record,
    weights_path,
    write_progress,
    write_trajectory,
)
from pipeline.attribution.trajectory.weights import RunningMean, save_weights
from pipeline.attribution.trajectory.wrapped_models import is_first_process, unwrapped, whole, whole_state


def checkpoint_steps(steps: int, checkpoints: int) -> list[int]:
    """Returns equally spaced steps after which to write a checkpoint. The last one is the last step.

    Args:
        steps: the number of steps.
        checkpoints: the number of checkpoints.

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
    """Returns the first step, counted from 1, of the last ``share`` of ``steps``: one step at least."""
    return steps - max(1, round(share * steps)) + 1


def check_announced(steps: int, train_rows: int, tail: float, batch_size: int | None = None) -> None:
    """Checks the sizes that a recorder is given before training.

    Args:
        steps: the number of optimizer steps.
        train_rows: the number of training rows.
        tail: the share of the last steps whose weights are averaged.
        batch_size: the number of rows of a step, or None.

    Raises:
        AttributionError: a number is less than 1, or ``tail`` isn't between 0 and 1.
    """
    for name, number in (("steps", steps), ("train_rows", train_rows), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise AttributionError(f"{name} is {number}.", "Give how many there are in training.")
    if not 0 <= tail <= 1:
        raise AttributionError(f"tail is {tail}.", "Give a share of the steps, from 0 to 1.")


class TrajectoryRecorder:
    """Writes checkpoints, the learning rates between them, and the mean of the last weights while you train.

    Training may have several stages, such as pre-training and fine-tuning: call ``next_stage`` when one is complete. A
    parameter is frozen in a stage if the stage's optimizer doesn't have it, or if it doesn't require a gradient when
    the stage begins.

    Args:
        model: the model in training. Its state dict is saved, buffers included. A model in DistributedDataParallel,
            FSDP2 or torch.compile is saved under the names of the plain model; the first process writes.
        optimizer: ``torch.optim.SGD``, ``Adam`` or ``AdamW``, a subclass that has their ``step``, or Accelerate's
            wrapper of one. Parameter groups may differ in learning rate and weight decay. Learning rates, momentum and
            β₁ may change during training.
        directory: the folder of the trajectory. A trajectory that is there already is discarded.
        steps: the number of optimizer steps of the stage.
        train_rows: N, the number of rows that the stage trains on.
        batch_size: the number of rows of one optimizer step, over all its micro-batches and all processes. With it,
            the norms of the gradients near checkpoints are measured, and ``attribute`` says if they don't fit the loss.
        checkpoints: the number of checkpoints, equally spaced.
        tail: the share of the last stage's steps whose weights are averaged, counted from the end. 0 keeps no average.
        name: the name of the stage, for people.

    Raises:
        OptimizerError: the formulas of this library don't cover the optimizer.
        AttributionError: there are fewer steps than checkpoints, there are no training rows, or ``tail`` isn't between
            0 and 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directory: str | Path,
        *,
        steps: int,
        train_rows: int,
        batch_size: int | None = None,
        checkpoints: int = 6,
        tail: float = 0.5,
        name: str = "",
    ) -> None:
        self._model, self._directory, self._tail = unwrapped(model), Path(directory), tail
        self._stages: list[TrainingStage] = []
        self._written: list[dict[str, Any]] = []
        self._applied = AppliedSums()
        self._step, self._steps, self._lr_sum = 0, 0, 0.0
        self._optimizer: Optimizer | None = None
        self._versions: list[int] = []
        self._first_tail: int | None = None
        self._mean = RunningMean()
        self._measures = StepMeasures()
        self._begin(optimizer, steps, train_rows, batch_size, checkpoints, name)

    def next_stage(
        self,
        optimizer: Optimizer,
        *,
        steps: int,
        train_rows: int,
        batch_size: int | None = None,
        checkpoints: int = 6,
        name: str = "",
    ) -> None:
        """Begins the next stage. Call it after the last step of a stage and before the first step of the next one.

        The arguments are those of the class, for the next stage.

        Raises:
            OptimizerError: the formulas of this library don't cover the optimizer.
            AttributionError: the stage before isn't complete, or the arguments can't be as for the class.
        """
        if self._step < self._steps:
            raise AttributionError(
                f"The stage has done {self._step} of the {self._steps} steps announced.",
                "Begin the next stage when it is complete, or announce fewer steps.",
            )
        self._begin(optimizer, steps, train_rows, batch_size, checkpoints, name)

    def step(self, epoch: float | None = None, *, loss: Tensor | float | None = None) -> None:
        """Records one step. Call it after every ``optimizer.step()`` and before the ``step()`` of a scheduler.

        Args:
            epoch: the number of epochs done, or None.
            loss: the loss of the step's batch, the number that ``backward()`` was called on. It is kept for steps near
                checkpoints, and ``attribute`` says if it doesn't fit the loss that it is told.

        Raises:
            AttributionError: training takes more steps than announced, or ``loss`` isn't one number.
            OptimizerError: a setting of the optimizer other than the learning rate changed.
        """
        assert self._optimizer is not None
        if self._step >= self._steps:
            raise AttributionError(
                f"Training goes on after the {self._steps} steps announced.",
                "Give the recorder the right `steps`.",
            )
        if constant_settings(self._optimizer) != self._constants:
            raise OptimizerError(
                "A setting of the optimizer other than learning rate and momentum changed during training.",
                "Keep weight decay, dampening, β₂ and ε constant.",
            )
        self._notice_unchanged()
        self._step += 1
        self._measures.add(self._step, loss)
        self._measures.expect(self._step + 1)
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._lr_sum += rates[0]
        self._applied.step(self._stages[-1].optimizer, rates, present_momentum(self._optimizer))
        if self._first_tail is not None and self._step >= self._first_tail:
            self._mean.add(whole_state(self._model))
        if self._step in self.checkpoint_steps:
            self._write_checkpoint(epoch)
        if self._step == self._steps:
            self._close()
        elif self._step in self.checkpoint_steps:
            self._applied.add_interval(len(rates))

    @property
    def steps_done(self) -> int:
        """The number of steps that were recorded."""
        return self._step

    def finish(self) -> None:
        """Ends the recording of a training that stopped before the announced steps, as early stopping does.

        The last weights become a checkpoint. The tail average covers the steps of the announced tail that were done;
        there is none if there were no such steps. After a complete training, this does nothing.

        Raises:
            AttributionError: the last stage has done no step.
        """
        if self._step == self._steps:
            return
        last = self._written[-1] if self._written else {"step": 0, "stage": -1}
        if last["step"] < self._step:
            self._write_checkpoint(None)
        elif last["stage"] == len(self._stages) - 1:
            self._applied.drop_interval()
        else:
            raise AttributionError("The last stage has done no step.", "Finish after at least one step.")
        if self._mean.count == 0:
            self._first_tail = None
        self._steps = self._step
        self._close()

    def state_tensors(self) -> dict[str, Tensor]:
        """Returns the recorder's state, from which ``restore`` continues, as a flat dictionary for safetensors."""
        record = {
            "step": self._step,
            "lr_sum": self._lr_sum,
            "written": self._written,
            "applied": self._applied.to_record(),
            "stages": [stage_record(stage) for stage in self._stages],
            "steps": self._steps,
            "checkpoint_steps": self.checkpoint_steps,
            "first_tail": self._first_tail,
            "measured": self._measures.records(),
        }
        text = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
        mean = self._mean.to_tensors() if self._mean.count else {}
        return {"record": text.clone()} | {f"mean/{name}": tensor for name, tensor in mean.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continues after an interruption, from a state that ``state_tensors`` returned.

        The recorder must have been made with the optimizer of the present stage, and the checkpoints written before
        must still be there.
        """
        record = json.loads(bytes(state["record"].tolist()))
        self._step, self._lr_sum, self._written = record["step"], record["lr_sum"], record["written"]
        self._applied = AppliedSums.from_record(record["applied"])
        self._stages = [stage_from_record(each) for each in record["stages"]]
        self._steps, self.checkpoint_steps = record["steps"], record["checkpoint_steps"]
        self._first_tail = record["first_tail"]
        self._measures.restore(record.get("measured", ()))
        self._measures.expect(self._step + 1)
        mean = {name.removeprefix("mean/"): t for name, t in state.items() if name.startswith("mean/")}
        self._mean = RunningMean.from_tensors(mean) if mean else RunningMean()
        self._write_progress()
        if self._step == self._steps:
            self._write_trajectory()

    def _begin(
        self,
        optimizer: Optimizer,
        steps: int,
        train_rows: int,
        batch_size: int | None,
        checkpoints: int,
        name: str,
    ) -> None:
        check_announced(steps, train_rows, self._tail, batch_size)
        optimizer = unwrapped_optimizer(optimizer)
        settings = read_settings(self._model, optimizer)
        self.checkpoint_steps = [self._steps + step for step in checkpoint_steps(steps, checkpoints)]
        # A trajectory.json that is there belongs to another training, or ends with the stage before.
        if is_first_process():
            (self._directory / FILE_NAME).unlink(missing_ok=True)
        self._first_tail = self._steps + first_tail_step(steps, self._tail) if self._tail > 0 else None
        first, self._steps = self._steps + 1, self._steps + steps
        self._write_progress()
        self._stages.append(TrainingStage(train_rows, settings, name, batch_size))
        self._measures.start(optimizer, self.checkpoint_steps, first, batch_size is not None)
        self._measures.expect(first)
        if optimizer is not self._optimizer:
            self._applied.start(optimizer)
        self._applied.add_interval(len(settings.groups))
        self._optimizer, self._constants = optimizer, constant_settings(optimizer)
        self._mean = RunningMean()

    def _write_checkpoint(self, epoch: float | None) -> None:
        assert self._optimizer is not None
        path = weights_path(self._directory, self._step)
        if self._stages[-1].optimizer.adaptive:
            moments = second_moments(self._model, self._optimizer)
            state = {f"{MOMENT}{name}": whole(moment) for name, moment in moments.items()}
            self._save(path.with_name(f"{self._step}.optimizer.safetensors"), state)
        self._save(path, whole_state(self._model))
        stage = len(self._stages) - 1
        self._written.append({"step": self._step, "epoch": epoch, "stage": stage, "lr_sum": self._lr_sum})
        self._lr_sum = 0.0
        self._write_progress()

    def _write_progress(self) -> None:
        if is_first_process():
            done = self._written[-1]["step"] if self._written else 0
            write_progress(self._directory, done, self._steps)

    def _notice_unchanged(self) -> None:
        """Warns of a call without a step of the optimizer before it, as after a micro-batch."""
        versions = [p._version for group in self._optimizer.param_groups for p in group["params"]]  # type: ignore[union-attr]
        if versions == self._versions:
            warnings.warn(
                f"No weight changed before recorder.step() number {self._step + 1}: call it after every "
                "optimizer.step(), and not after a micro-batch whose gradients are only added up.",
                stacklevel=3,
            )
        self._versions = versions

    def _close(self) -> None:
        if self._first_tail is not None:
            self._save(self._directory / TAIL_NAME, self._mean.mean())
        self._measures.stop()
        self._write_trajectory()

    def _save(self, path: Path, state: Mapping[str, Tensor]) -> None:
        if is_first_process():
            save_weights(path, state)

    def _write_trajectory(self) -> None:
        if not is_first_process():
            return
        write_trajectory(
            self._directory,
            checkpoints=[
                checkpoint | {"applied": applied}
                for checkpoint, applied in zip(self._written, self._applied.sums(), strict=True)
            ],
            stages=self._stages,
            steps=self._steps,
            tail=None if self._first_tail is None else TAIL_NAME,
            measured=self._measures.records(),
        )
