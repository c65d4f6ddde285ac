"""A layer of a user's own, whose rule is registered from outside."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.attribution import (
    ModuleRule,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    coverage,
    register,
)
from pipeline.attribution.gradients.diagonal_gradients import DiagonalGradients, affine_gradients

from . import assert_matches_functional_gradients


class Scale(nn.Module):
    """Each column times a number of its own."""

    def __init__(self, columns: int):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, columns))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight


class Unknown(Scale):
    """A subclass may compute something else: it needs a rule of its own."""


@register(Scale)
class ScaleRule(ModuleRule):
    kind = "scale"
    diagonal_input = True
    diagonal_gradient = True

    def weight_shape(self, module: Scale) -> tuple[int, int]:
        return len(module.weight), 1

    def weight_gradients(
        self,
        module: Scale,  # noqa: ARG002
        inputs: Tensor,
        output_gradients: Tensor,
        bias: bool,
    ) -> DiagonalGradients:
        return affine_gradients(inputs[:, :, None], output_gradients[:, :, None], bias)


def test_a_registered_rule_gives_the_gradients_of_its_layer() -> None:
    torch.manual_seed(0)
    assert_matches_functional_gradients(Scale(3).double(), torch.randn(5, 3).double())


def test_a_registered_layer_is_covered_and_attributed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(24, 3), torch.arange(24) % 2
    inputs[:, 0] += 3 * labels
    labels[5] = 1 - labels[5]
    model = nn.Sequential(Scale(3), nn.Linear(3, 2))
    assert coverage(model).share == 1
    assert coverage(nn.Sequential(Unknown(3), nn.Linear(3, 2))).share < 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, checkpoints=3, steps=30, train_rows=24)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        recorder.step()
    found = attribute(model, Trajectory.load(tmp_path), [(inputs, labels)])
    assert int(found.self_influence.argmax()) == 5
