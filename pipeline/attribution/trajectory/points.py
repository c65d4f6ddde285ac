"""Weights at which gradients are taken: checkpoints, and means of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from pipeline.attribution.model.batchnorm import has_batchnorm, reestimate_batchnorm
from pipeline.attribution.rows.stages import StageRows
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import RunningMean, restore_weights


@dataclass
class Points:
    """Weights at which gradients are taken: the checkpoints, and after them means of checkpoints that were added."""

    model: nn.Module
    trajectory: Trajectory
    _means: list[dict[str, Tensor]] = field(default_factory=list)

    def load(self, point: int) -> None:
        """Puts the weights into the model."""
        checkpoints = self.trajectory.checkpoints
        if point < len(checkpoints):
            restore_weights(self.model, self.trajectory.load_weights(point), checkpoints[point].path)
        else:
            self.model.load_state_dict(self._means[point - len(checkpoints)])

    def add_mean(self, checkpoints: Sequence[int], rows: StageRows) -> int:
        """The number of the mean of these checkpoints' weights; BatchNorm statistics are those of ``rows``."""
        mean = RunningMean()
        for checkpoint in checkpoints:
            mean.add(self.trajectory.load_weights(checkpoint))
        path = self.trajectory.checkpoints[checkpoints[-1]].path
        restore_weights(self.model, mean.mean(), path)
        if has_batchnorm(self.model):
            reestimate_batchnorm(self.model, (batch.inputs for batch in rows))
        self._means.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return len(self.trajectory.checkpoints) + len(self._means) - 1
