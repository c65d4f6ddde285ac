"""A training run as attribution sees it: checkpoints on disk, and the learning rates between them.

A trajectory is a folder:

    trajectory.json      {"optimizer": "sgd", "momentum", "dampening", "weight_decay", "steps", "train_rows",
                          "checkpoints": [{"step", "epoch", "lr_sum"}, …], "tail": "tail.safetensors" | null}
    <step>.safetensors   the model's state dict with its buffers; tied tensors once
    tail.safetensors     the mean of the last iterates

``lr_sum`` is the plain sum of the learning rates of the steps since the checkpoint before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pipeline.attribution.errors import AttributionError, CheckpointError, OptimizerError
from pipeline.attribution.weights import load_weights, write_atomically

FILE_NAME = "trajectory.json"
TAIL_NAME = "tail.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: optimizer steps done.
        epoch: epochs done, or None where the training loop didn't say.
        lr_sum: sum of the learning rates of the steps since the checkpoint before, as the optimizer had them.
        path: the file with the weights.
    """

    step: int
    epoch: float | None
    lr_sum: float
    path: Path


@dataclass(frozen=True)
class Segment:
    """Consecutive checkpoints over which curvature and gradients count as constant.

    Attributes:
        checkpoints: places of its checkpoints in the trajectory, ascending.
        lr_sum: η̄K, the sum of its *effective* learning rates: divided by 1 − momentum.
        weight_decay: coupled weight decay.
    """

    checkpoints: tuple[int, ...]
    lr_sum: float
    weight_decay: float


@dataclass(frozen=True)
class Trajectory:
    """A recorded training run; see the module's text for its files."""

    directory: Path
    checkpoints: tuple[Checkpoint, ...]
    steps: int
    train_rows: int
    momentum: float
    dampening: float
    weight_decay: float
    optimizer: str
    tail: Path | None

    @classmethod
    def load(cls, directory: str | Path) -> Trajectory:
        """Reads ``trajectory.json``; weights are read when asked for.

        Raises:
            CheckpointError: the file or a checkpoint is missing or damaged.
            OptimizerError: the run used an optimizer whose formula isn't known here.
        """
        directory = Path(directory)
        path = directory / FILE_NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            checkpoints = tuple(
                Checkpoint(
                    int(c["step"]), c["epoch"], float(c["lr_sum"]), weights_path(directory, int(c["step"]))
                )
                for c in record["checkpoints"]
            )
            trajectory = cls(
                directory,
                checkpoints,
                int(record["steps"]),
                int(record["train_rows"]),
                float(record["momentum"]),
                float(record["dampening"]),
                float(record["weight_decay"]),
                str(record["optimizer"]),
                directory / record["tail"] if record["tail"] else None,
            )
        except FileNotFoundError as error:
            raise CheckpointError(
                f"There is no trajectory at {path}.", "Record one while training."
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error!r}).", "Train again to record it anew."
            ) from error
        check_optimizer(trajectory.optimizer)
        trajectory._check_files()
        return trajectory

    def segments(self, count: int = 1) -> list[Segment]:
        """Cuts the run into ``count`` segments with equally many checkpoints each.

        Raises:
            AttributionError: the checkpoints can't be divided so.
        """
        if count < 1 or len(self.checkpoints) % count:
            raise AttributionError(
                f"{len(self.checkpoints)} checkpoints can't be cut into {count} equal segments.",
                "Choose a number of segments that divides the number of checkpoints.",
            )
        size = len(self.checkpoints) // count
        # In the steady state a gradient enters with (1 − dampening) and is repeated 1 / (1 − momentum) times.
        factor = (1.0 - self.dampening) / (1.0 - self.momentum) if self.momentum else 1.0
        segments = []
        for start in range(0, len(self.checkpoints), size):
            places = tuple(range(start, start + size))
            lr_sum = factor * sum(self.checkpoints[place].lr_sum for place in places)
            segments.append(Segment(places, lr_sum, self.weight_decay))
        return segments

    def load_weights(self, checkpoint: int) -> dict[str, Tensor]:
        """The state dict of the ``checkpoint``-th checkpoint, tied tensors once."""
        return load_weights(self.checkpoints[checkpoint].path)

    def load_tail(self) -> dict[str, Tensor]:
        """The mean of the last iterates.

        Raises:
            CheckpointError: the run didn't keep it.
        """
        if self.tail is None:
            raise CheckpointError(
                f"The trajectory {self.directory} has no tail average.", "Use query_at='final'."
            )
        return load_weights(self.tail)

    def _check_files(self) -> None:
        if not self.checkpoints or self.train_rows < 1:
            raise CheckpointError(
                f"The trajectory {self.directory} has no checkpoints or no training rows.", "Train again."
            )
        for path in [*(c.path for c in self.checkpoints), *([self.tail] if self.tail else [])]:
            if not path.is_file():
                raise CheckpointError(f"The weights {path} are missing.", "Restore the file or train again.")


def write_trajectory(
    directory: str | Path,
    *,
    checkpoints: Sequence[Mapping[str, float | None]],
    steps: int,
    train_rows: int,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    optimizer: str = "sgd",
    tail: str | None = TAIL_NAME,
) -> None:
    """Writes ``trajectory.json`` atomically; write the weights first, for it says that they are complete.

    ``checkpoints`` are ``{"step", "epoch", "lr_sum"}``, ascending by step.
    """
    check_optimizer(optimizer)
    record = {
        "optimizer": optimizer,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "steps": steps,
        "train_rows": train_rows,
        "checkpoints": [dict(checkpoint) for checkpoint in checkpoints],
        "tail": tail,
    }
    with write_atomically(Path(directory) / FILE_NAME) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def weights_path(directory: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(directory) / f"{step}.safetensors"


def check_optimizer(name: str) -> None:
    """Raises OptimizerError unless the formulas for this optimizer are known here."""
    if name != "sgd":
        raise OptimizerError(
            f"Attribution through {name!r} isn't supported.",
            "Train with SGD (momentum and weight decay are fine).",
        )
