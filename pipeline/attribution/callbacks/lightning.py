"""Records a trajectory from Lightning: ``Trainer(..., callbacks=[TrajectoryCallback("trajectory")])``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.attribution.callbacks.recording import Recording, known_length, rows_of_a_step
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.recorder import TrajectoryRecorder

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback


class TrajectoryCallback(Callback):
    """Records the training of a LightningModule with one optimizer.

    Training may stop early, and may resume from a checkpoint of Lightning: the recorder's state is saved with it.

    Args:
        directory: the folder of the trajectory. A trajectory that is there already is discarded.
        module: the name of the submodule that is recorded and that ``attribute`` is given, such as ``model``; empty is
            the LightningModule itself.
        checkpoints: the number of checkpoints, equally spaced.
        tail: the share of the last steps whose weights are averaged.
        train_rows: the number of training rows; None takes the length of the loader's data set.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        module: str = "",
        checkpoints: int = 6,
        tail: float = 0.5,
        train_rows: int | None = None,
    ) -> None:
        self._directory, self._module, self._checkpoints = Path(directory), module, checkpoints
        self._tail, self._train_rows = tail, train_rows
        self._recording: Recording | None = None
        self._restored: Mapping[str, Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Makes the recorder.

        Raises:
            AttributionError: there are several optimizers, or the number of steps or rows isn't known.
            OptimizerError: the formulas of this library don't cover the optimizer.
        """
        if len(trainer.optimizers) != 1:
            raise AttributionError(
                f"Training has {len(trainer.optimizers)} optimizers.", "Record a training with one optimizer."
            )
        steps, loader = trainer.estimated_stepping_batches, trainer.train_dataloader
        if not math.isfinite(steps):
            raise AttributionError(
                "The number of steps isn't known.",
                "Give the Trainer max_epochs or max_steps; early stopping may end it.",
            )
        rows = self._train_rows
        recorder = TrajectoryRecorder(
            pl_module.get_submodule(self._module),
            trainer.optimizers[0],
            self._directory,
            steps=int(steps),
            train_rows=known_length(loader.dataset, "data set of the loader") if rows is None else rows,
            batch_size=rows_of_a_step(loader, trainer.accumulate_grad_batches),
            checkpoints=self._checkpoints,
            tail=self._tail,
        )
        known = trainer.max_epochs is not None and trainer.max_epochs > 0
        per_step = trainer.max_epochs / int(steps) if known else None
        self._recording = Recording(recorder, trainer.optimizers[0], per_step)
        if self._restored:
            self._recording.recorder.restore(self._restored)
        elif trainer.global_step:
            raise AttributionError(
                "Training resumes from a checkpoint that has no state of the recorder.",
                "Record a training from its start, with this callback.",
            )

    def on_before_backward(self, trainer: Any, pl_module: nn.Module, loss: Tensor) -> None:  # noqa: ARG002
        """Adds up the losses of a step, which Lightning has divided by the number of batches of the step."""
        if self._recording is not None and getattr(trainer.precision_plugin, "scaler", None) is None:
            before = self._recording.loss
            self._recording.loss = loss.detach() if before is None else before + loss.detach()

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:  # noqa: ARG002
        """Ends the recording."""
        if self._recording is not None:
            self._recording.finish()
            self._recording = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorder's state, for a checkpoint of Lightning."""
        return {} if self._recording is None else dict(self._recording.recorder.state_tensors())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the recorder's state from a checkpoint of Lightning."""
        self._restored = state_dict
