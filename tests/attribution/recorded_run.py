"""A small classifier's recorded training in float64, that can be repeated with other row weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.attribution import RunningMean
from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder

ROWS, WIDTH, CLASSES = 20, 4, 3


def softmax_regression() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, CLASSES))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, CLASSES))


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.02),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.02, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.02, betas=(0.8, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1, eps=1e-3),
    "two groups": lambda p: torch.optim.SGD(
        [{"params": p[:1], "weight_decay": 0.1}, {"params": p[1:], "lr": 0.05}], lr=0.1, momentum=0.5
    ),
}


@dataclass
class Run:
    """Training from a fixed start on fixed batches, with a falling learning rate."""

    build: Callable[[], nn.Module]
    optimizer: str
    steps: int = 13
    tail: float = 0.5
    batch: int = 6
    inputs: Tensor = field(init=False)
    labels: Tensor = field(init=False)
    query: list[tuple[Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(ROWS, WIDTH, generator=generator).double()
        self.labels = torch.randint(CLASSES, (ROWS,), generator=generator)
        others = torch.randn(9, WIDTH, generator=generator).double()
        labels = torch.randint(CLASSES, (9,), generator=generator)
        self.query = [(others[:5], labels[:5]), (others[5:], labels[5:])]
        self.order = [torch.randperm(ROWS, generator=generator)[: self.batch] for _ in range(self.steps)]

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.inputs[:7], self.labels[:7]), (self.inputs[7:], self.labels[7:])]

    def model(self) -> nn.Module:
        torch.manual_seed(1)
        return self.build().double()

    def recorder(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path
    ) -> Callable[[Tensor], None]:
        """What is called with a step's rows."""
        return ReplayRecorder(
            model, optimizer, directory, steps=self.steps, train_rows=ROWS, tail=self.tail
        ).step

    def train(self, directory: Path | None = None, weights: Tensor | None = None) -> nn.Module:
        """Trains; records into ``directory``; the model returned has the query's weights."""
        model = self.model()
        optimizer = OPTIMIZERS[self.optimizer](list(model.parameters()))
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, self.steps)
        record = None if directory is None else self.recorder(model, optimizer, directory)
        states = []
        for rows in self.order:
            losses = nn.functional.cross_entropy(
                model(self.inputs[rows]), self.labels[rows], reduction="none"
            )
            loss = losses.mean() if weights is None else (losses * weights[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if record is not None:
                record(rows)
            states.append({name: value.clone() for name, value in model.state_dict().items()})
            schedule.step()
        mean = RunningMean()
        for state in states[-max(1, round(self.tail * self.steps)) :]:
            mean.add(state)
        model.load_state_dict(mean.mean())
        return model

    def query_loss(self, weights: Tensor | None = None) -> float:
        model = self.train(weights=weights).eval()
        total = sum(
            nn.functional.cross_entropy(model(inputs), labels, reduction="sum")
            for inputs, labels in self.query
        )
        return total.item() / 9

    def finite_differences(self, size: float = 1e-5) -> Tensor:
        """d(query loss)/d(row weight), by training twice for every row."""
        found = []
        for row in range(ROWS):
            change = torch.zeros(ROWS, dtype=torch.float64)
            change[row] = size
            found.append((self.query_loss(1 + change) - self.query_loss(1 - change)) / (2 * size))
        return torch.tensor(found, dtype=torch.float64)
