"""Models of the newer layer kinds from a recorded training run to scores, against differentiation of the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from pipeline.attribution import Trajectory, TrajectoryRecorder, attribute

from .models import Tied, TinyTransformer, grouped

ROWS, STEPS, RATE = 16, 20, 0.02


def rows_of(kind: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    if kind == "grouped":
        inputs = torch.randn(count, 2, 5, generator=generator, dtype=torch.float64)
        return inputs + (labels[:, None, None] - 1.0), labels
    inputs = torch.randint(1, 7 if kind == "transformer" else 3, (count, 5), generator=generator)
    inputs[:, 0] = labels if kind == "tied" else labels + 1
    if kind == "transformer":
        inputs[::2, 3:] = 0
    return inputs, labels


class Run:
    """Full-batch gradient descent, recorded, BatchNorm with its first statistics throughout."""

    def __init__(self, kind: str, directory: Path) -> None:
        torch.manual_seed(0)
        self.model = (
            {"transformer": TinyTransformer, "tied": Tied, "grouped": grouped}[kind]().double().eval()
        )
        self.train, self.query = rows_of(kind, ROWS, 1), rows_of(kind, 12, 2)
        self.start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
        recorder = TrajectoryRecorder(self.model, optimizer, directory, steps=STEPS, train_rows=ROWS)
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.train[0]), self.train[1]).backward()
            optimizer.step()
            recorder.step()
        self.trajectory = Trajectory.load(directory)

    def unrolled_harm(self) -> Tensor:
        """d(mean query loss)/d(row weight) through all of training."""

        def losses(parameters: dict[str, Tensor], rows: tuple[Tensor, Tensor]) -> Tensor:
            outputs = functional_call(self.model, parameters, (rows[0],))
            return nn.functional.cross_entropy(outputs, rows[1], reduction="none")

        def trained(weights: Tensor) -> Tensor:
            parameters = self.start
            for _ in range(STEPS):
                step = grad(lambda p: (weights * losses(p, self.train)).mean())(parameters)
                parameters = {name: p - RATE * step[name] for name, p in parameters.items()}
            return losses(parameters, self.query).mean()

        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return grad(trained)(torch.ones(ROWS, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["transformer", "tied", "grouped"])
def test_harm_is_that_of_exact_unrolling(kind: str, tmp_path: Path) -> None:
    run = Run(kind, tmp_path)
    train = [(run.train[0][part], run.train[1][part]) for part in (slice(0, 6), slice(6, ROWS))]
    scores = attribute(run.model, run.trajectory, train, [run.query], query_at="final", fisher="exact")
    exact = run.unrolled_harm()
    assert scores.harm is not None
    both = torch.stack([scores.harm, exact])
    assert torch.corrcoef(both)[0, 1] > 0.9
    assert 0.5 < scores.harm.norm() / exact.norm() < 2
    again = attribute(run.model, run.trajectory, [run.train], [run.query], query_at="final", fisher="exact")
    torch.testing.assert_close(again.harm, scores.harm)
    torch.testing.assert_close(again.self_influence, scores.self_influence)
    assert (scores.self_influence > 0).all()
