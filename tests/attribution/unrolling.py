"""Linear regression, recorded, and the exact answer by autograd through the whole training loop.

One output and squared error: EK-FAC is the exact Hessian, so that only the steps' size separates SOURCE from the
truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.attribution import Scores, StageData, Trajectory, TrajectoryRecorder, attribute

RowLosses = Callable[[Sequence[Tensor], tuple[Tensor, Tensor], Tensor], Tensor]
"""Parameters, the rows and their places among all → every row's loss."""
WIDTH = 3
TRUTH = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def regression_rows(rows: int, seed: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, WIDTH, dtype=torch.float64, generator=generator) + shift
    return inputs, inputs @ TRUTH + torch.randn(rows, dtype=torch.float64, generator=generator)


@dataclass(frozen=True)
class StageSpec:
    """One stage: full-batch steps on ``rows`` (places in all rows); ``trains`` says which of weight and bias move."""

    rows: Sequence[int]
    steps: int
    checkpoints: int
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
    options: dict = field(default_factory=dict)
    trains: tuple[bool, bool] = (True, True)
    groups: tuple[dict, dict] | None = None
    rates: Sequence[float] | None = None

    def make(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        own = self.groups or ({}, {})
        groups = [
            {"params": [parameter]} | extra
            for parameter, extra, moves in zip(parameters, own, self.trains, strict=True)
            if moves
        ]
        return self.optimizer(groups, **self.options)


class LinearRun:
    """A recorded run of one or several stages on ``rows``."""

    def __init__(self, directory: Path, rows: tuple[Tensor, Tensor], stages: Sequence[StageSpec]) -> None:
        self.rows, self.stages, self.query = rows, stages, regression_rows(10, 1)
        torch.manual_seed(0)
        self.model = nn.Linear(WIDTH, 1).double()
        self.start = [p.detach().clone() for p in self.model.parameters()]
        recorder: TrajectoryRecorder | None = None
        for spec in stages:
            optimizer = spec.make(list(self.model.parameters()))
            plan = {"steps": spec.steps, "train_rows": len(spec.rows), "checkpoints": spec.checkpoints}
            if recorder is None:
                recorder = TrajectoryRecorder(self.model, optimizer, directory, **plan)
            else:
                recorder.next_stage(optimizer, **plan)
            for step in range(spec.steps):
                set_rate(optimizer, spec, step)
                optimizer.zero_grad()
                losses(list(self.model.parameters()), self.part(spec)).mean().backward()
                optimizer.step()
                recorder.step()
        self.trajectory = Trajectory.load(directory)

    def part(self, spec: StageSpec) -> tuple[Tensor, Tensor]:
        places = torch.as_tensor(list(spec.rows))
        return self.rows[0][places], self.rows[1][places]

    def unrolled_harm(self, frozen_scale: bool = True) -> Tensor:
        """d(mean query loss)/d(row weight) through all of training: what a row's removal lowers the loss by.

        ``frozen_scale``: Adam's second moments don't depend on the weights.
        """
        weights = torch.ones(len(self.rows[1]), dtype=torch.float64, requires_grad=True)
        found = self._query_loss(
            lambda values, part, rows: weights[rows] * losses(values, part), frozen_scale
        )
        return torch.autograd.grad(found, weights)[0]

    def unrolled_relabelling(self, labels: Tensor) -> Tensor:
        """d(mean query loss)/dε where a row's loss is (1 − ε) times its own and ε times that with another label."""
        shares = torch.zeros(len(labels), dtype=torch.float64, requires_grad=True)

        def mixed(values: Sequence[Tensor], part: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
            own, other = losses(values, part), losses(values, (part[0], labels[rows]))
            return own + shares[rows] * (other - own)

        return torch.autograd.grad(self._query_loss(mixed, frozen_scale=True), shares)[0]

    def retrained_relabelling(self, labels: Tensor, row: int) -> Tensor:
        """The change of the mean query loss when a row is trained on with its other label."""
        given = self.rows[1].clone()
        given[row] = labels[row]

        def query_loss(targets: Tensor) -> Tensor:
            return self._query_loss(
                lambda values, part, rows: losses(values, (part[0], targets[rows])), frozen_scale=False
            )

        return (query_loss(given) - query_loss(self.rows[1])).detach()

    def _query_loss(self, row_losses: RowLosses, frozen_scale: bool) -> Tensor:
        values = [value.clone().requires_grad_() for value in self.start]
        for spec in self.stages:
            values = self._unroll(spec, values, row_losses, frozen_scale)
        return losses(values, self.query).mean()

    def _unroll(
        self, spec: StageSpec, values: list[Tensor], row_losses: RowLosses, frozen_scale: bool
    ) -> list[Tensor]:
        optimizer = spec.make([value.detach().clone().requires_grad_() for value in values])
        groups = iter(optimizer.param_groups)
        of_value = [next(groups) if moves else None for moves in spec.trains]
        first = [torch.zeros_like(value) for value in values]
        second = [torch.zeros_like(value) for value in values]
        for step in range(spec.steps):
            set_rate(optimizer, spec, step)
            loss = row_losses(values, self.part(spec), torch.as_tensor(list(spec.rows))).mean()
            gradients = torch.autograd.grad(loss, values, create_graph=True)
            moved = []
            for place, (value, gradient, group) in enumerate(zip(values, gradients, of_value, strict=True)):
                if group is None:
                    moved.append(value)
                    continue
                decay = group["weight_decay"]
                if spec.optimizer is torch.optim.SGD:
                    gradient = gradient + decay * value
                    enters = 1.0 if step == 0 else 1 - group["dampening"]
                    first[place] = group["momentum"] * first[place] + enters * gradient
                    change = first[place]
                    if group["nesterov"]:
                        change = gradient + group["momentum"] * change
                    moved.append(value - group["lr"] * change)
                    continue
                if spec.optimizer is torch.optim.Adam:
                    gradient = gradient + decay * value
                else:
                    value = value * (1 - group["lr"] * decay)
                beta1, beta2 = group["betas"]
                first[place] = beta1 * first[place] + (1 - beta1) * gradient
                square = gradient.detach().square() if frozen_scale else gradient.square()
                second[place] = beta2 * second[place] + (1 - beta2) * square
                scale = (second[place] / (1 - beta2 ** (step + 1))).sqrt() + group["eps"]
                moved.append(value - group["lr"] * first[place] / (1 - beta1 ** (step + 1)) / scale)
            values = moved
        return values

    def scores(self, segments: int | Sequence[int] = 1, **options: object) -> Scores:
        train: list = [self.part(self.stages[0])]
        if len(self.stages) > 1:
            train = [StageData([self.part(spec)], row_ids=list(spec.rows)) for spec in self.stages]
        settings = {"loss": "squared_error", "query_at": "final", "fisher": "exact"} | options
        return attribute(self.model, self.trajectory, train, [self.query], segments=segments, **settings)


def set_rate(optimizer: torch.optim.Optimizer, spec: StageSpec, step: int) -> None:
    if spec.rates is not None:
        for group in optimizer.param_groups:
            group["lr"] = spec.rates[step]


def losses(values: Sequence[Tensor], rows: tuple[Tensor, Tensor]) -> Tensor:
    return (rows[0] @ values[0].T + values[1] - rows[1][:, None]).square().squeeze(1)


def relative_error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).abs().max() / exact.abs().max()).item()


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])
