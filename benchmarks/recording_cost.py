"""The cost of recording: the same training with and without a recorder, in turns.

    python -m benchmarks.recording_cost [--seconds 60] [--turns 3]

A plain training lasts about `--seconds`. The recorder writes six checkpoints, the mean of the last half of the weights,
and the losses and gradient norms near the checkpoints. Times are CPU seconds of the process, wall times stand beside
them. Writes to benchmarks/results/recording_cost.json only with the seconds and turns above or more.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.results import write_results
from benchmarks.timing import Row, ratios, seconds_rows, summary, timed, turns
from pipeline.attribution import TrajectoryRecorder

SECONDS, TURNS, ROWS, PROBE = 60.0, 3, 2048, 40


class Encoder(nn.Module):
    """Two layers of a transformer over 32 tokens of 1,000 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(1000, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.1, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(128, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.words(tokens)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


@dataclass(frozen=True)
class Training:
    """A training with AdamW.

    Attributes:
        build: makes the model.
        inputs: `[ROWS, …]`.
        batch: rows of a step.
    """

    build: Callable[[], nn.Module]
    inputs: Tensor
    batch: int

    def run(self, steps: int, folder: Path | None) -> float:
        """Trains, records into `folder` if there is one, and returns the last loss."""
        torch.manual_seed(0)
        model, labels = self.build(), torch.arange(ROWS) % 10
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        recorder = None
        if folder is not None:
            recorder = TrajectoryRecorder(
                model, optimizer, folder, steps=steps, train_rows=ROWS, batch_size=self.batch
            )
        loss = torch.zeros(())
        for _ in range(steps):
            rows = torch.randint(ROWS, (self.batch,))
            loss = nn.functional.cross_entropy(model(self.inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.step(loss=loss)
        return float(loss.detach())


def trainings() -> dict[str, Training]:
    generator = torch.Generator().manual_seed(0)
    return {
        "mlp": Training(mlp, torch.randn(ROWS, 784, generator=generator), 64),
        "transformer": Training(Encoder, torch.randint(1000, (ROWS, 32), generator=generator), 32),
    }


def measured(task: str, training: Training, seconds: float, repeats: int) -> list[Row]:
    """Returns the rows of one training: times, and the ratio of the recorded training to the plain one."""
    cpu, _, _ = timed(lambda: training.run(PROBE, None))
    steps = max(PROBE, math.ceil(PROBE * seconds / cpu))
    with tempfile.TemporaryDirectory() as folder:
        works = {
            "plain": lambda: training.run(steps, None),
            "recorded": lambda: training.run(steps, Path(folder)),
        }
        found, losses = turns(works, repeats)
    if losses["plain"] != losses["recorded"]:
        raise SystemExit(f"{task}: the recorder changed training")
    extra = {"steps": steps}
    ratio = summary(ratios(found["recorded"], found["plain"]))
    return [
        *seconds_rows(task, found, extra),
        {"task": task, "method": "recorded", "metric": "ratio"} | ratio | extra,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a plain training")
    parser.add_argument(
        "--turns", type=int, default=TURNS, help="of both trainings, after one that isn't counted"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task, training in trainings().items():
        rows += measured(task, training, options.seconds, options.turns)
        print(f"{task}: {rows[-1]['steps']} steps, recorded / plain {rows[-1]['value']:.3f}", flush=True)
    if options.seconds >= SECONDS and options.turns >= TURNS:
        print(write_results("recording_cost", rows))


if __name__ == "__main__":
    main()
