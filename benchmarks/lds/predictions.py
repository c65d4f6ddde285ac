"""What attributions predict: models trained on all rows, and the scores of every method for every question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.lds.tasks import QUERIES, Data, Task
from benchmarks.lds.truth import POINTS, TAIL, query_values
from benchmarks.results import CACHE
from pipeline.attribution import (
    Objective,
    StageData,
    Trajectory,
    TrajectoryRecorder,
    attribute,
    get_objective,
    no_margins,
)
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.piece_recorder import PieceRecorder
from pipeline.attribution.replay import Replay
from pipeline.attribution.replay_recorder import ReplayRecorder
from pipeline.attribution.row_derivatives import row_source
from pipeline.attribution.trajectory import FILE_NAME
from pipeline.attribution.unrolled import unrolled_harm
from pipeline.attribution.unrolled_gauss_newton import Pieces, unrolled_gauss_newton_harm
from pipeline.seeds import random_state
from pipeline.training.state import save_tensors

KINDS = ("margins", "validation_loss")
BATCH = 1024


@dataclass(frozen=True)
class Base:
    """A model trained on all rows of a task, with its trajectory."""

    name: str
    task: Task
    data: Data
    seed: int

    @property
    def folder(self) -> Path:
        return CACHE / "lds" / f"{self.name}-{self.task.fingerprint()}" / f"base-{self.seed}"

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


def train_base(base: Base) -> None:
    """Trains on all rows, stage after stage; one stage alone is recorded so that it can be replayed, too."""
    torch.manual_seed(base.seed)
    task, data, model = base.task, base.data, base.task.build()
    losses = get_objective(task.recipe.loss).losses
    stages = [np.flatnonzero(data.stages == stage) for stage in range(data.stages.max() + 1)]
    steps = task.recipe.steps(tuple(map(len, stages)))
    recorder, replay, pieces = None, None, None
    for stage, rows in enumerate(stages):
        optimizer = task.recipe.make_optimizer(list(model.parameters()), stage)
        announced: dict[str, Any] = {"steps": steps[stage], "train_rows": len(rows)}
        if recorder is None:
            recorder = TrajectoryRecorder(model, optimizer, base.folder, tail=TAIL, **announced)
            if len(stages) == 1:
                replay = ReplayRecorder(model, optimizer, base.replay, **announced)
                size = task.recipe.batch_size
                pieces = PieceRecorder(model, optimizer, base.pieces, batch_size=size, **announced)
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


def marked(labels: Tensor, margin: bool) -> Tensor:
    """`[rows, 2]`: the label, and whether a row's margin is asked for instead of its loss; float64."""
    return torch.stack([labels.double(), torch.full((len(labels),), float(margin))], 1)


def objective(task: Task) -> Objective:
    """The task's objective on marked labels: scores of a query's margin come about as those of its loss do."""
    trained = get_objective(task.recipe.loss)
    classes = task.recipe.loss == "cross_entropy"

    def own(labels: Tensor | None) -> Tensor | None:
        return None if labels is None else labels[:, 0].long() if classes else labels[:, 0].float()

    def losses(outputs: Tensor, labels: Tensor) -> Tensor:
        measure = query_values if bool(labels[0, 1]) else None
        given = own(labels)
        assert given is not None
        return trained.losses(outputs, given) if measure is None else measure(task, outputs, given)

    return Objective(
        name=f"{trained.name} or margin",
        losses=losses,
        margins=no_margins,
        sampled_output_gradients=lambda outputs, uniforms, labels=None: trained.sampled_output_gradients(
            outputs, uniforms, own(labels)
        ),
        exact_output_gradients=lambda outputs, labels=None: trained.exact_output_gradients(
            outputs, own(labels)
        ),
    )


def by_attribute(base: Base, kind: str, at: str, **options: Any) -> Tensor:
    """τ of `pipeline.attribution.attribute` with these options: float64 `[queries, rows]`."""
    found = attribute(
        base.task.build(),
        base.trajectory,
        base.train_stages(),
        base.query_batches(kind),
        loss=objective(base.task),
        query_at=at,
        reduce_queries=kind == "validation_loss",
        **options,
    )
    if kind == "margins":
        assert found.influence is not None
        return found.influence
    assert found.harm is not None
    return -found.harm[None]


def by_unrolling(base: Base, smoothed: bool) -> Tensor:
    """τ of the mean validation loss, by differentiating through training: float64 `[1, rows]`."""
    rows, query = row_source(base.train_batches()), base.query_batches("validation_loss")
    model, wanted = base.task.build(), objective(base.task)
    if smoothed:
        found = unrolled_gauss_newton_harm(model, Pieces.load(base.pieces), wanted, rows, query)
    else:
        found = unrolled_harm(model, Replay.load(base.replay), wanted, rows, query)
        print(f"{base.name}: the adjoint grows by {found.growth:.2g}, chaotic: {found.chaotic}")
    return -found.harm[None]


@dataclass(frozen=True)
class Method:
    """scores: (base, kind of query, where its gradient is taken) -> τ; facts: said in its rows of the results.

    adaptive_only: differs from another method only where training used Adam.
    """

    scores: Callable[[Base, str, str], Tensor]
    kinds: tuple[str, ...] = KINDS
    points: tuple[str, ...] = POINTS
    facts: dict[str, Any] = field(default_factory=dict)
    adaptive_only: bool = False


METHODS = {
    "source": Method(partial(by_attribute, method="source", calibrate=True)),
    "source_3": Method(partial(by_attribute, method="source", segments=3)),
    "fast_source": Method(partial(by_attribute, method="fast_source")),
    "source_refined": Method(partial(by_attribute, method="source_refined"), ("validation_loss",)),
    "source_sgd_formula": Method(partial(by_attribute, method="source_sgd_formula"), adaptive_only=True),
    "influence": Method(partial(by_attribute, method="influence"), facts={"damping": "0.1 of the mean"}),
    "unrolled": Method(lambda base, *_: by_unrolling(base, False), ("validation_loss",), ("tail",)),
    "unrolled_gauss_newton": Method(
        lambda base, *_: by_unrolling(base, True), ("validation_loss",), ("tail",)
    ),
}


def scores(base: Base, method: str, kind: str, at: str) -> np.ndarray | None:
    """τ, float64 `[queries, rows]`, kept in the cache; None, with a line that says why, where it is not defined."""
    path = base.folder / f"{method}-{kind}-{at}.safetensors"
    if not path.exists():
        try:
            found = METHODS[method].scores(base, kind, at)
        except AttributionError as error:
            print(f"{base.name}: no {method} for {kind} at {at}: {error}")
            return None
        save_tensors(path, {"scores": found.contiguous()})
    return load_file(path)["scores"].double().numpy()


def all_scores(base: Base) -> dict[tuple[str, str, str], np.ndarray]:
    """(method, kind, at) -> τ, of all that are defined."""
    asked = [
        (name, kind, at)
        for name, method in METHODS.items()
        if base.task.recipe.optimizer != "sgd" or not method.adaptive_only
        for kind in method.kinds
        for at in method.points
    ]
    found = {}
    for name, kind, at in asked:
        print(f"{base.name}, base model {base.seed}: {name} for {kind} at {at}", flush=True)
        one = scores(base, name, kind, at)
        if one is not None:
            found[name, kind, at] = one
    return found
