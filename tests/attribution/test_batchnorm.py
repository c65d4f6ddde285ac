from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import (
    AttributionError,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    has_batchnorm,
    reestimate_batchnorm,
)


def test_statistics_become_the_mean_over_batches_and_modes_are_put_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3, momentum=0.2), nn.Linear(3, 2)).eval()
    model[0].train()
    batches = [torch.randn(8, 3) * 3 + 1 for _ in range(4)]
    model[0].eval()
    reestimate_batchnorm(model, batches)
    torch.testing.assert_close(model[1].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert model[1].momentum == 0.2
    assert not any(module.training for module in model.modules())


def test_dropout_stays_off_meanwhile() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)).train()
    inputs = torch.randn(8, 3)
    reestimate_batchnorm(model, [inputs])
    torch.testing.assert_close(model[1].running_mean, inputs.mean(0))
    assert all(module.training for module in model.modules())


def test_models_without_running_statistics_are_left_alone() -> None:
    assert not has_batchnorm(nn.Linear(2, 2))
    assert not has_batchnorm(nn.BatchNorm1d(2, track_running_stats=False))
    assert has_batchnorm(nn.Sequential(nn.BatchNorm2d(2)))
    reestimate_batchnorm(nn.Linear(2, 2), [torch.zeros(1, 2)])


@pytest.mark.parametrize("named", [False, True])
def test_a_single_row_that_is_left_over_is_left_out(named: bool) -> None:
    norm = nn.BatchNorm1d(3)
    inputs = torch.randn(9, 3)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.norm(inputs["x"])

    if named:
        reestimate_batchnorm(Named(), [{"x": part} for part in inputs.split(4)])
    else:
        reestimate_batchnorm(norm, inputs.split(4))
    parts = inputs[:8].split(4)
    torch.testing.assert_close(norm.running_mean, torch.stack([p.mean(0) for p in parts]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([p.var(0) for p in parts]).mean(0))


@pytest.mark.parametrize("method", ["source", "loss"])
def test_batchnorm_without_running_statistics_is_refused_by_name(tmp_path: Path, method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    inputs, labels = torch.randn(6, 4), torch.arange(6) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=1, train_rows=6, checkpoints=1)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    recorder.step()
    with pytest.raises(AttributionError, match="Layer '1' is BatchNorm without running statistics"):
        attribute(model, Trajectory.load(tmp_path), [(inputs, labels)], [(inputs, labels)], method=method)


def convnet() -> nn.Module:
    """Two convolutions, each with BatchNorm behind it."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class ByHand:
    """The same convnet as formulas, with statistics of its own."""

    def __init__(self, weights: dict[str, Tensor], batches: list[Tensor]) -> None:
        self.weights = weights
        norms = [self.normalised_by_batch(batch) for batch in batches]
        self.statistics = [
            [torch.stack([found[layer][kind] for found in norms]).mean(0) for kind in (0, 1)]
            for layer in (0, 1)
        ]

    def conv(self, layer: int, inputs: Tensor) -> Tensor:
        w = self.weights
        return nn.functional.conv2d(inputs, w[f"{layer}.weight"], w[f"{layer}.bias"])

    def scaled(self, layer: int, values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        centred = (values - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        weight, bias = self.weights[f"{layer}.weight"], self.weights[f"{layer}.bias"]
        return centred * weight[:, None, None] + bias[:, None, None]

    def normalised_by_batch(self, batch: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(mean, unbiased variance) of what each norm sees of a batch when both go by the batch."""
        first = self.conv(0, batch)
        values = first.transpose(0, 1).flatten(1)
        hidden = self.scaled(1, first, values.mean(1), values.var(1, unbiased=False)).relu()
        second = self.conv(3, hidden).transpose(0, 1).flatten(1)
        return [(values.mean(1), values.var(1)), (second.mean(1), second.var(1))]

    def __call__(self, inputs: Tensor) -> Tensor:
        hidden = self.scaled(1, self.conv(0, inputs), *self.statistics[0]).relu()
        hidden = self.scaled(4, self.conv(3, hidden), *self.statistics[1])
        return hidden.flatten(1) @ self.weights["6.weight"].T + self.weights["6.bias"]


def test_fast_source_estimates_the_statistics_at_the_mean_weights_of_a_convnet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = convnet().double()
    inputs, labels = torch.randn(30, 1, 6, 6).double(), torch.randint(3, (30,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = TrajectoryRecorder(model, optimizer, tmp_path, steps=12, train_rows=30, checkpoints=4)
    for _ in range(12):
        rows = torch.randperm(30)[:10]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
        recorder.step()
    trajectory = Trajectory.load(tmp_path)
    train = list(zip(inputs.split(10), labels.split(10), strict=True))
    found = attribute(model, trajectory, train, train, method="fast_source", segments=2)
    for place, cut in enumerate(((0, 1), (2, 3))):
        loaded = [trajectory.load_weights(checkpoint) for checkpoint in cut]
        mean = {name: (loaded[0][name] + loaded[1][name]) / 2 for name in loaded[0]}
        outputs = ByHand(mean, [batch for batch, _ in train])(inputs)
        expected = nn.functional.cross_entropy(outputs, labels, reduction="none")
        torch.testing.assert_close(found.losses[place], expected)
