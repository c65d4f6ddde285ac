"""The models whose rows are attributed: trained on all rows of a task, with their trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lds.rows import QUERIES, Data
from benchmarks.lds.tasks import Task
from benchmarks.lds.truth import task_folder
from pipeline.attribution import StageData, Trajectory, TrajectoryRecorder
from pipeline.attribution.trajectory.trajectory import FILE_NAME
from pipeline.attribution.unrolling.replay_recorder import ReplayRecorder
from pipeline.attribution.unrolling.window_recorder import WindowRecorder
from pipeline.seeds import random_state

KINDS = ("margins", "validation_loss")
BATCH = 1024
# Share of the last iterates at whose mean queries are taken: the recorder's and the config's default.
QUERY_TAIL = 0.5


def base_folder(name: str, task: Task, seed: int) -> Path:
    return task_folder(name, task) / f"base-{seed}"


@dataclass(frozen=True)
class Base:
    """A model trained on all rows of a task, with its trajectory."""

    name: str
    task: Task
    data: Data
    seed: int

    @property
    def folder(self) -> Path:
        return base_folder(self.name, self.task, self.seed)

    @property
    def replay(self) -> Path:
        """The recording that can be repeated bit for bit."""
        return self.folder / "replay"

    @property
    def pieces(self) -> Path:
        """The mean weights of equal pieces of training."""
        return self.folder / "pieces"

    @cached_property
    def trajectory(self) -> Trajectory:
        """Trains if there is none yet."""
        if not (self.folder / FILE_NAME).exists():
            train_base(self)
        return Trajectory.load(self.folder)

    def train_batches(self) -> list[tuple[Tensor, Tensor]]:
        return in_batches(self.data.inputs, marked(self.data.labels, margin=False))

    def train_stages(self) -> list[StageData]:
        """The rows of every stage, numbered as they are in the data."""
        inputs, labels = self.data.inputs, marked(self.data.labels, margin=False)
        found = []
        for stage in range(self.data.stages.max() + 1):
            rows = torch.from_numpy(np.flatnonzero(self.data.stages == stage))
            found.append(StageData(in_batches(inputs[rows], labels[rows]), rows))
        return found

    def query_batches(self, kind: str) -> list[tuple[Tensor, Tensor]]:
        count = QUERIES if kind == "margins" else len(self.data.validation_labels)
        labels = marked(self.data.validation_labels[:count], margin=kind == "margins")
        return in_batches(self.data.validation_inputs[:count], labels)


def in_batches(inputs: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))


def marked(labels: Tensor, margin: bool) -> Tensor:
    """`[rows, labels + 1]`: a row's labels, and whether its margin is asked for instead of its loss; float64."""
    return torch.cat([labels.double().view(len(labels), -1), torch.full((len(labels), 1), float(margin))], 1)


def train_base(base: Base) -> None:
    """Trains on all rows, stage after stage; one stage alone is recorded so that it can be replayed, too."""
    torch.manual_seed(base.seed)
    task, data, model = base.task, base.data, base.task.build()
    losses = task.recipe.objective.losses
    stages = [np.flatnonzero(data.stages == stage) for stage in range(data.stages.max() + 1)]
    steps = task.recipe.steps(tuple(map(len, stages)))
    recorder, replay, pieces = None, None, None
    for stage, rows in enumerate(stages):
        optimizer = task.recipe.make_optimizer(list(model.parameters()), stage)
        announced: dict[str, Any] = {"steps": steps[stage], "train_rows": len(rows)}
        if recorder is None:
            recorder = TrajectoryRecorder(model, optimizer, base.folder, tail=QUERY_TAIL, **announced)
            if len(stages) == 1:
                replay = ReplayRecorder(model, optimizer, base.replay, **announced)
                size = task.recipe.batch_size
                pieces = WindowRecorder(model, optimizer, base.pieces, batch_size=size, **announced)
        else:
            recorder.next_stage(optimizer, **announced)
        for batch in batches(task, rows, stage, base.seed):
            optimizer.zero_grad()
            (losses(model(data.inputs[batch]), data.labels[batch]).sum() / len(batch)).backward()
            optimizer.step()
            recorder.step()
            if replay is not None and pieces is not None:
                replay.step(batch)
                pieces.step()


def batches(task: Task, rows: np.ndarray, stage: int, seed: int) -> Iterator[Tensor]:
    state = random_state("lds base order", seed, stage)
    for _ in range(task.recipe.epochs[stage]):
        yield from torch.from_numpy(state.permutation(rows)).split(task.recipe.batch_size)
