"""The weights at which gradients are taken: checkpoints, and means of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from pipeline.attribution.model.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import RunningMean, restore_weights

# The most bytes of checkpoints that are held in memory, so that they are read once and not for every group of batches.
HELD_BYTES = 1 << 30


@dataclass
class Points:
    """The numbered weights at which gradients are taken: the checkpoints, followed by means of checkpoints.

    Attributes:
        model: the model that the weights are loaded into.
        trajectory: the trajectory with the checkpoints.
    """

    model: nn.Module
    trajectory: Trajectory
    _held: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    _means: list[dict[str, Tensor]] = field(default_factory=list)

    def load(self, point: int) -> None:
        """Loads the weights of a point into the model."""
        checkpoints = self.trajectory.checkpoints
        if point < len(checkpoints):
            restore_weights(self.model, self._weights(point), checkpoints[point].path)
        else:
            self.model.load_state_dict(self._means[point - len(checkpoints)])

    def add_mean(self, checkpoints: Sequence[int], rows: StageRows) -> int:
        """Adds the mean of some checkpoints' weights as a new point, and loads it into the model.

        Args:
            checkpoints: the places of the checkpoints in the trajectory.
            rows: the rows from which BatchNorm statistics are re-estimated.

        Returns:
            The number of the new point.
        """
        mean = RunningMean()
        for checkpoint in checkpoints:
            mean.add(self._weights(checkpoint))
        path = self.trajectory.checkpoints[checkpoints[-1]].path
        restore_weights(self.model, mean.mean(), path)
        if has_batchnorm(self.model):
            reestimate_batchnorm(self.model, (batch.inputs for batch in rows))
        self._means.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return len(self.trajectory.checkpoints) + len(self._means) - 1

    def _weights(self, checkpoint: int) -> dict[str, Tensor]:
        """Returns the state dict of a checkpoint, and holds it if there is room."""
        if checkpoint in self._held:
            return self._held[checkpoint]
        found = self.trajectory.load_weights(checkpoint)
        nbytes = sum(tensor.nbytes for state in (found, *self._held.values()) for tensor in state.values())
        if nbytes <= HELD_BYTES:
            self._held[checkpoint] = found
        return found
