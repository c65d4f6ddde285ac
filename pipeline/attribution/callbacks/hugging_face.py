"""Records a trajectory from Hugging Face's Trainer: ``Trainer(..., callbacks=[TrajectoryCallback("trajectory")])``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.attribution.atomic import write_atomically
from pipeline.attribution.callbacks.recording import Recording, known_length
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.recorder import TrajectoryRecorder
from pipeline.attribution.trajectory.weights import load_weights, write_tensors
from pipeline.attribution.trajectory.wrapped_models import is_first_process, unwrapped

# A value that the Trainer logs once, at the end.
_SUMMARY = "train_runtime"
_STATE_NAME = "trajectory_recorder.safetensors"


class TrajectoryCallback(TrainerCallback):
    """Records the training of a Trainer, whose gradients it clips, adds up and schedules as usual.

    Training may stop early, and may resume from a checkpoint of the Trainer: the recorder's state is saved with it.
    ``attribute`` takes the model of the Trainer afterwards.

    Args:
        directory: the folder of the trajectory. A trajectory that is there already is discarded.
        checkpoints: the number of checkpoints, equally spaced.
        tail: the share of the last steps whose weights are averaged.
        train_rows: the number of training rows; None takes the length of the Trainer's data set.
    """

    def __init__(
        self, directory: str | Path, *, checkpoints: int = 6, tail: float = 0.5, train_rows: int | None = None
    ) -> None:
        self._directory, self._checkpoints, self._tail = Path(directory), checkpoints, tail
        self._train_rows = train_rows
        self._recording: Recording | None = None
        self._hook: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        model: nn.Module,
        optimizer: Optimizer,
        train_dataloader: DataLoader[Any],
        **_: Any,
    ) -> None:
        """Makes the recorder.

        Raises:
            AttributionError: the number of rows isn't known, or training resumes from a checkpoint without a state of
                the recorder.
            OptimizerError: the formulas of this library don't cover the optimizer.
        """
        rows = self._train_rows
        recorder = TrajectoryRecorder(
            model,
            optimizer,
            self._directory,
            steps=state.max_steps,
            train_rows=known_length(train_dataloader.dataset, "data set of the Trainer")
            if rows is None
            else rows,
            batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            checkpoints=self._checkpoints,
            tail=self._tail,
        )
        self._recording = Recording(recorder, optimizer, state.num_train_epochs / state.max_steps)
        if state.global_step:
            self._resume(_state_path(args, state))
        if args.gradient_accumulation_steps == 1:
            self._hook = unwrapped(model).register_forward_hook(self._note_loss)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Saves the recorder's state in the checkpoint of the Trainer."""
        if self._recording is not None and is_first_process():
            with write_atomically(_state_path(args, state)) as temporary:
                write_tensors(self._recording.recorder.state_tensors(), temporary)

    def on_log(self, *_: Any, logs: Mapping[str, Any] | None = None, **__: Any) -> None:
        """Ends the recording at the summary of training, which comes before the Trainer loads its best weights."""
        if _SUMMARY in (logs or {}):
            self._finish()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Ends the recording, if the Trainer has given no summary."""
        self._finish()

    def _finish(self) -> None:
        if self._recording is not None:
            self._recording.finish()
            self._recording = None
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _resume(self, path: Path) -> None:
        assert self._recording is not None
        if not path.is_file():
            raise AttributionError(
                f"Training resumes from a checkpoint that has no state of the recorder: {path} is missing.",
                "Record a training from its start, with this callback.",
            )
        self._recording.recorder.restore(load_weights(path))

    def _note_loss(self, module: nn.Module, _args: Any, outputs: Any) -> None:
        """Keeps the loss of a forward pass of training, if the model gives one."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
        if self._recording is not None and module.training and torch.is_grad_enabled():
            self._recording.loss = loss.mean() if isinstance(loss, torch.Tensor) else None


def _state_path(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / _STATE_NAME
