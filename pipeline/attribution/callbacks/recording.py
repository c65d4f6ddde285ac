"""A recorder that the optimizer drives: every step is recorded as the optimizer does it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.optimizers import unwrapped_optimizer
from pipeline.attribution.trajectory.recorder import TrajectoryRecorder


class Recording:
    """A trajectory recorder whose ``step`` is called by the optimizer after every step, before a schedule's step.

    Args:
        recorder: the recorder.
        optimizer: the optimizer that the recorder was made with. The recorder's own hook, which measures gradients,
            comes before the hook of this object.
        epochs_per_step: the number of epochs of a step; None if it isn't known.

    Attributes:
        recorder: the recorder.
        loss: the loss of the present step, if it is known before the optimizer's step; each step forgets it.
    """

    def __init__(
        self, recorder: TrajectoryRecorder, optimizer: Optimizer, epochs_per_step: float | None
    ) -> None:
        self.recorder = recorder
        self.loss: Tensor | float | None = None
        self._per_step = epochs_per_step
        held = weakref.ref(self)

        def step(*_: Any) -> None:
            recording = held()
            if recording is not None:
                recording._step()

        hook = unwrapped_optimizer(optimizer).register_step_post_hook(step)
        self._stop = weakref.finalize(self, hook.remove)

    def _step(self) -> None:
        loss, self.loss = self.loss, None
        epoch = None if self._per_step is None else (self.recorder.steps_done + 1) * self._per_step
        self.recorder.step(epoch, loss=loss)

    def finish(self) -> None:
        """Ends the recording: training is complete, or stopped early.

        Raises:
            AttributionError: there was no step.
        """
        self.stop()
        self.recorder.finish()

    def stop(self) -> None:
        """Records no more steps, and leaves an incomplete trajectory as it is."""
        self._stop()


@contextmanager
def record_training(
    model: nn.Module,
    optimizer: Optimizer,
    directory: str | Path,
    loader: DataLoader[Any],
    *,
    epochs: int,
    accumulate: int = 1,
    checkpoints: int = 6,
    tail: float = 0.5,
) -> Iterator[Recording]:
    """Records the training that happens inside the context. The loop itself needs no change.

    Training may stop early. After an error inside the context, there is no trajectory. Set ``loss`` of what the context
    gives before a step of the optimizer, and ``attribute`` compares the loss too, not the gradients alone.

    Args:
        model, optimizer, directory, checkpoints, tail: as in ``TrajectoryRecorder``.
        loader: the loader of the training rows.
        epochs: the number of passes over the loader.
        accumulate: the number of batches of the loader in one step of the optimizer.

    Raises:
        AttributionError: the loader doesn't say how many rows it has, or the optimizer did no step.
        OptimizerError: the formulas of this library don't cover the optimizer.
    """
    batches = known_length(loader, "loader")
    steps = epochs * -(-batches // accumulate)
    recorder = TrajectoryRecorder(
        model,
        optimizer,
        directory,
        steps=steps,
        train_rows=known_length(loader.dataset, "dataset of the loader"),
        batch_size=rows_of_a_step(loader, accumulate),
        checkpoints=checkpoints,
        tail=tail,
    )
    recording = Recording(recorder, optimizer, epochs / steps)
    try:
        yield recording
    except BaseException:
        recording.stop()
        raise
    recording.finish()


def rows_of_a_step(loader: DataLoader[Any], accumulate: int) -> int:
    """Returns the number of rows of one step of the optimizer, over all processes.

    Args:
        loader: the loader of the training rows.
        accumulate: the number of batches of the loader in one step of the optimizer.

    Raises:
        AttributionError: the batches of the loader have no fixed size.
    """
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    if size is None:
        raise AttributionError(
            "The loader's batches have no fixed size.", "Record with TrajectoryRecorder in the loop."
        )
    processes = (
        distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    )
    return int(size) * accumulate * processes


def known_length(given: object, what: str) -> int:
    """Returns the length of a loader or data set.

    Raises:
        AttributionError: it has none, as a stream has none.
    """
    try:
        return len(given)  # type: ignore[arg-type]
    except TypeError as error:
        raise AttributionError(
            f"The {what} has no length, so the number of training rows isn't known.",
            "Record with TrajectoryRecorder in the loop, which is told the number of steps and rows.",
        ) from error
