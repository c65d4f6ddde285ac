"""What happens in truth when rows are left out: retrainings, many at once, kept so that work can go on later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.lds.rows import IGNORED, QUERIES, Data
from benchmarks.lds.tasks import NEXT_TOKEN, Recipe, Task
from benchmarks.results import CACHE
from pipeline.attribution.trajectory.recorder import first_tail_step
from pipeline.runs.tensors import save_tensors
from pipeline.seeds import random_state

# Share of the last iterates at whose mean retrained models are measured.
TAIL = 0.25
POINTS = ("final", "tail")
States = dict[str, Tensor]


@dataclass(frozen=True)
class Piece:
    """Retrainings that are done together: one of each mask from `first` to `last` − 1."""

    name: str
    removed: float
    first: int
    last: int
    seed: int

    def path(self, task: Task) -> Path:
        return (
            task_folder(self.name, task)
            / f"{self.removed:g}-{self.first}-{self.last}-{self.seed}.safetensors"
        )

    def __len__(self) -> int:
        return self.last - self.first


def task_folder(name: str, task: Task) -> Path:
    return CACHE / "lds" / f"{name}-{task.fingerprint()}"


def pieces(name: str, task: Task, removed: float) -> list[Piece]:
    """All that is to be retrained, the first seed of all masks before the second."""
    planned, size = task.removals[removed], task.recipe.at_once
    return [
        Piece(name, removed, first, min(first + size, planned.masks), seed)
        for seed in range(planned.retrainings)
        for first in range(0, planned.masks, size)
    ]


def removed_rows(stages: np.ndarray, removed: float, mask: int, masks: int | None = None) -> np.ndarray:
    """bool `[rows]`: what mask number `mask` leaves out, the same share of every stage.

    stages: int64 `[rows]`, as in `Data`; masks: how many there are. Where they are as many as parts (100 of .01), they
    are the parts of a partition: every row is removed once.
    """
    found = np.zeros(len(stages), dtype=bool)
    if masks is not None and round(masks * removed, 9) == 1:
        state = random_state("lds partition", masks)
        for stage in range(stages.max() + 1):
            found[np.array_split(state.permutation(np.flatnonzero(stages == stage)), masks)[mask]] = True
        return found
    state = random_state("lds mask", round(1000 * removed), mask)
    for stage in range(stages.max() + 1):
        rows = np.flatnonzero(stages == stage)
        found[state.permutation(rows)[: round(removed * len(rows))]] = True
    return found


def measure_truth(name: str, task: Task, data: Data, removed: float, most: int | None = None) -> None:
    """Retrain whatever is missing, of each mask's first `most` retrainings; prints how long it will take."""
    planned = [piece for piece in pieces(name, task, removed) if most is None or piece.seed < most]
    missing = [piece for piece in planned if not piece.path(task).exists()]
    left, begin, done = sum(map(len, missing)), time.perf_counter(), 0
    for piece in missing:
        masks = task.removals[removed].masks
        kept = [~removed_rows(data.stages, removed, mask, masks) for mask in range(piece.first, piece.last)]
        trained = train_many(task, data, kept, piece)
        path = piece.path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, measure(task, data, trained))
        done += len(piece)
        seconds = (time.perf_counter() - begin) / done
        remaining = seconds * (left - done) / 60
        print(
            f"{name} {removed:g}: {done}/{left} retrainings, {seconds:.2f} s each, {remaining:.1f} min left",
            flush=True,
        )


def train_many(task: Task, data: Data, kept: list[np.ndarray], piece: Piece) -> dict[str, States]:
    """Weights `[models, …]` at the end and averaged over the last quarter of the iterates.

    The initial weights are those of the seed, the same for all masks, so that masks differ by their rows; the order
    of the rows is drawn for every seed and mask.
    """
    torch.manual_seed(1000 + piece.seed)
    model = task.build()
    states = {
        name: value.detach().repeat(len(kept), *[1] * value.dim()) for name, value in model.named_parameters()
    }
    for value in states.values():
        value.requires_grad_()
    rows = [
        np.stack([np.flatnonzero(one & (data.stages == stage)) for one in kept])
        for stage in range(data.stages.max() + 1)
    ]
    steps = task.recipe.steps(tuple(part.shape[1] for part in rows))
    first_tail, step = first_tail_step(sum(steps), TAIL), 0
    tail = {name: torch.zeros_like(value, requires_grad=False) for name, value in states.items()}
    for stage, part in enumerate(rows):
        optimizer = task.recipe.make_optimizer(list(states.values()), stage)
        for batch in orders(task.recipe, part, stage, piece):
            optimizer.zero_grad()
            summed_loss(task, model, states, data.inputs[batch], data.labels[batch]).backward()
            optimizer.step()
            step += 1
            if step >= first_tail:
                for name, value in states.items():
                    tail[name] += value.detach()
    count = step - first_tail + 1
    final = {name: value.detach() for name, value in states.items()}
    return {"final": final, "tail": {name: value / count for name, value in tail.items()}}


def summed_loss(task: Task, model: nn.Module, states: States, inputs: Tensor, labels: Tensor) -> Tensor:
    """Σ over models of each one's mean loss on its batch; one alone goes without vmap, which lacks some layers."""

    def of_one(state: States, inputs: Tensor, labels: Tensor) -> Tensor:
        return loss(task, torch.func.functional_call(model, state, (inputs,)), labels)

    if len(inputs) == 1:
        return of_one({name: value[0] for name, value in states.items()}, inputs[0], labels[0])
    return torch.func.vmap(of_one)(states, inputs, labels).sum()


def orders(recipe: Recipe, rows: np.ndarray, stage: int, piece: Piece) -> Iterator[Tensor]:
    """Row numbers `[models, batch]` of every step of a stage."""
    generators = [
        random_state("lds order", stage, piece.seed, mask) for mask in range(piece.first, piece.last)
    ]
    for _ in range(recipe.epochs[stage]):
        order = np.stack([state.permutation(one) for state, one in zip(generators, rows, strict=True)])
        yield from torch.from_numpy(order).split(recipe.batch_size, 1)


def loss(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    if task.recipe.loss == "squared_error":
        return functional.mse_loss(outputs[:, 0], labels)
    if task.recipe.loss == NEXT_TOKEN:
        return sentence_losses(outputs, labels).mean()
    return functional.cross_entropy(outputs, labels)


def sentence_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """`[rows]`: the mean over a sentence's tokens."""
    each = functional.cross_entropy(outputs.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    return each.sum(1) / (labels != IGNORED).sum(1)


def query_values(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """`[rows]`: the margin log p / (1 − p) of the label; for regression the absolute error, for sentences the loss."""
    if task.recipe.loss == "squared_error":
        return (outputs[:, 0] - labels).abs()
    if task.recipe.loss == NEXT_TOKEN:
        return sentence_losses(outputs, labels)
    own = outputs.gather(1, labels[:, None])[:, 0]
    others = outputs.scatter(1, labels[:, None], float("-inf"))
    return own - others.logsumexp(1)


@torch.no_grad()
def measure(task: Task, data: Data, trained: dict[str, States]) -> dict[str, Tensor]:
    """margins_final, margins_tail float32 `[models, queries]`; loss_final, loss_tail float64 `[models]`."""
    model, found = task.build(), {}
    for point, states in trained.items():
        outputs = [
            torch.func.functional_call(model, one, (data.validation_inputs,)) for one in unstacked(states)
        ]
        labels = data.validation_labels
        found[f"margins_{point}"] = torch.stack(
            [query_values(task, one[:QUERIES], labels[:QUERIES]) for one in outputs]
        )
        found[f"loss_{point}"] = torch.stack([loss(task, one, labels) for one in outputs]).double()
    return found


def unstacked(states: States) -> list[States]:
    count = len(next(iter(states.values())))
    return [{name: value[place] for name, value in states.items()} for place in range(count)]


def read_truth(name: str, task: Task, removed: float) -> dict[str, np.ndarray]:
    """What `measure` gives, `[masks, retrainings, …]`, with the retrainings that all masks have; {} without any."""
    found: dict[int, list[dict[str, Tensor]]] = {}
    for piece in pieces(name, task, removed):
        if piece.path(task).exists():
            found.setdefault(piece.seed, []).append(load_file(piece.path(task)))
    size = -(-task.removals[removed].masks // task.recipe.at_once)
    whole = [parts for parts in found.values() if len(parts) == size]
    if not whole:
        return {}
    return {
        key: np.stack([torch.cat([part[key] for part in parts]).double().numpy() for parts in whole], 1)
        for key in whole[0][0]
    }
