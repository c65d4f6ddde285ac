"""The cost of recording: the same training with and without a recorder, in turns.

    python -m benchmarks.recording_cost [--seconds 60] [--turns 3] [--tasks mlp transformer]

A plain training lasts about `--seconds`. The recorder writes six checkpoints, the mean of the last half of the weights,
and the losses and gradient norms near the checkpoints. Times are CPU seconds of the process, wall times stand beside
them. On a machine that others use too, the ratio of two trainings is noisy. `recorder_share` is not: it is the time
inside recorder.step() over that of the rest of the same training. Norms of gradients are measured inside
optimizer.step(), at 192 steps at most, and are in the ratio only.

Writes to benchmarks/results/recording_cost.json only with the seconds and turns above or more. Each turn is kept under
benchmarks/cache/recording_cost/ for the code that made it, so the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pipeline.attribution
from benchmarks.results import CACHE, read_results, write_results
from benchmarks.timing import Row, ratios, seconds_rows, summary, timed
from pipeline.attribution import TrajectoryRecorder
from pipeline.runs.directory import read_json, write_json

NAME = "recording_cost"
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

    def run(self, steps: int, folder: Path | None) -> tuple[float, float]:
        """Trains, and records into `folder` if there is one. Returns the last loss and the recorder's CPU seconds."""
        torch.manual_seed(0)
        model, labels = self.build(), torch.arange(ROWS) % 10
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        recorder, spent = None, 0.0
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
                begin = time.process_time()
                recorder.step(loss=loss)
                spent += time.process_time() - begin
        return float(loss.detach()), spent


def trainings() -> dict[str, Training]:
    generator = torch.Generator().manual_seed(0)
    return {
        "mlp": Training(mlp, torch.randn(ROWS, 784, generator=generator), 64),
        "transformer": Training(Encoder, torch.randint(1000, (ROWS, 32), generator=generator), 32),
    }


def recorder_code() -> str:
    """Changes with the source of the recorder."""
    paths = sorted((Path(pipeline.attribution.__file__).parent / "trajectory").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def measured(task: str, training: Training, seconds: float, repeats: int) -> list[Row]:
    """Returns the rows of one training: times, and the ratio of the recorded training to the plain one.

    Turns are kept, so that the same command goes on after an interruption.
    """
    path = CACHE / NAME / f"{task}-{seconds:g}.json"
    kept: dict[str, Any] = read_json(path) if path.exists() else {}
    if kept.get("code") != recorder_code():
        kept = {"code": recorder_code(), "turns": []}
    training.run(PROBE, None)  # what torch loads with its first optimizer is no time of training
    if "steps" not in kept:
        kept["steps"] = max(PROBE, math.ceil(PROBE * seconds / timed(lambda: training.run(PROBE, None))[0]))
    steps = kept["steps"]
    while len(kept["turns"]) < repeats:
        with tempfile.TemporaryDirectory() as folder:
            plain = timed(lambda: training.run(steps, None))
            recorded = timed(lambda: training.run(steps, Path(folder)))
        (loss, _), (again, spent) = plain[2], recorded[2]
        if loss != again:
            raise SystemExit(f"{task}: the recorder changed training")
        turn = {"plain": plain[:2], "recorded": recorded[:2], "share": spent / (recorded[0] - spent)}
        kept["turns"].append(turn)
        write_json(path, kept)
        print(
            f"{task}: {plain[0]:.0f} s, recorded / plain {recorded[0] / plain[0]:.3f}, "
            f"recorder's own share {turn['share']:.3f}",
            flush=True,
        )
    found = {name: [tuple(turn[name]) for turn in kept["turns"]] for name in ("plain", "recorded")}
    extra = {"steps": steps}
    ratio = summary(ratios(found["recorded"], found["plain"]))
    share = summary([turn["share"] for turn in kept["turns"]])
    return [
        *seconds_rows(task, found, extra),
        {"task": task, "method": "recorded", "metric": "ratio"} | ratio | extra,
        {"task": task, "method": "recorded", "metric": "recorder_share"} | share | extra,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a plain training")
    parser.add_argument("--turns", type=int, default=TURNS, help="of both trainings")
    found = trainings()
    parser.add_argument(
        "--tasks", nargs="+", choices=found, default=list(found), help="results of others stay as they are"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in (read_results(NAME) or {"rows": []})["rows"] if row["task"] not in options.tasks]
    for task in options.tasks:
        rows += measured(task, found[task], options.seconds, options.turns)
    if options.seconds >= SECONDS and options.turns >= TURNS:
        print(write_results(NAME, rows))


if __name__ == "__main__":
    main()
