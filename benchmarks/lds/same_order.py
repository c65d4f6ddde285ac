"""The truth of one training: rows are left out of the very training of a base model, with its start and its order.

The removed rows keep their places in the batches with the weight 0, and the loss of a batch is divided by as many rows
as before. So no noise of training is in the truth, and what an attribution misses is its own fault. It is measured at
the mean of the last half of the iterates, which is where queries are asked (the truth across seeds is measured at the
mean of the last quarter). A method is held against the truth of each base model that it was asked about.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.lds.bases import QUERY_TAIL, Base, batches
from benchmarks.lds.predictions import METHODS as ALL
from benchmarks.lds.predictions import by_unrolling, scores
from benchmarks.lds.questions import MEASURED
from benchmarks.lds.summary import rounded
from benchmarks.lds.tasks import NEXT_TOKEN
from benchmarks.lds.truth import States, measure, removed_rows, sentence_losses
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.recorder import first_tail_step
from pipeline.runs.tensors import save_tensors
from pipeline.verification.lds import lds_score, predicted_change, slope

TRUTH = "same_order"
METHODS = (
    "source",
    "source_refined",
    "influence",
    "tracin",
    "representation",
    "representation_by_label",
    "tfidf",
    "bm25",
    "unrolled",
    "unrolled_one_order",
)
"""`unrolled_one_order` differentiates through the recorded batches, which this truth has too, without smoothing."""
POINT = dict.fromkeys(("tracin", "representation", "representation_by_label", "tfidf", "bm25"), "final")
"""Where the query's gradient is taken, if not at the tail average."""
Row = dict[str, Any]


def masks_of(base: Base, removed: float) -> np.ndarray:
    """The rows that each mask removes, bool `[masks, rows]`."""
    count = base.task.same_order[removed]
    return np.stack([removed_rows(base.data.stages, removed, mask, count) for mask in range(count)])


def path_of(base: Base, removed: float) -> Path:
    return base.folder / f"same_order_{removed:g}_{base.task.same_order[removed]}_{QUERY_TAIL:g}.safetensors"


def measure_same_order(base: Base) -> None:
    """Retrain without each mask and with all rows, unless that is kept; the last entry of a file is of all rows."""
    size = base.task.recipe.at_once
    for removed in base.task.same_order:
        path = path_of(base, removed)
        if path.exists():
            continue
        begin = time.perf_counter()
        gone = torch.from_numpy(masks_of(base, removed))
        counted = torch.cat([(~gone).float(), torch.ones(1, gone.shape[1])])
        parts = [measure(base.task, base.data, retrain_in_order(base, some)) for some in counted.split(size)]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        seconds = (time.perf_counter() - begin) / len(counted)
        print(
            f"{base.name} {base.seed} {removed:g}: {len(counted)} in the same order, {seconds:.2f} s each",
            flush=True,
        )


def retrain_in_order(base: Base, counted: Tensor) -> dict[str, States]:
    """Repeat the training of a base model with weights of the rows.

    Args:
        base: the base model.
        counted: 1 for rows that count and 0 for removed ones, float32 `[models, rows]`.

    Returns:
        Weights `[models, …]` at the end and averaged over the last half of the iterates.
    """
    torch.manual_seed(base.seed)
    task, data, model = base.task, base.data, base.task.build()
    states = {
        name: value.detach().repeat(len(counted), *[1] * value.dim()).requires_grad_()
        for name, value in model.named_parameters()
    }
    losses = sentence_losses if task.recipe.loss == NEXT_TOKEN else task.recipe.objective.losses

    def of_one(state: States, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        found = losses(torch.func.functional_call(model, state, (inputs,)), labels)
        return (found * weights).sum() / len(labels)

    each = torch.func.vmap(of_one, in_dims=(0, 0, None, None))
    stages = [np.flatnonzero(data.stages == stage) for stage in range(data.stages.max() + 1)]
    steps = sum(task.recipe.steps(tuple(map(len, stages))))
    first, step = first_tail_step(steps, QUERY_TAIL), 0
    tail = {name: torch.zeros_like(value, requires_grad=False) for name, value in states.items()}
    for stage, rows in enumerate(stages):
        optimizer = task.recipe.make_optimizer(list(states.values()), stage)
        for batch in batches(task, rows, stage, base.seed):
            optimizer.zero_grad()
            each(states, counted[:, batch], data.inputs[batch], data.labels[batch]).sum().backward()
            optimizer.step()
            step += 1
            if step >= first:
                for name, value in states.items():
                    tail[name] += value.detach()
    final = {name: value.detach() for name, value in states.items()}
    return {"final": final, "tail": {name: value / (steps - first + 1) for name, value in tail.items()}}


def scores_of(base: Base, method: str, kind: str, at: str) -> np.ndarray | None:
    """τ, float64 `[queries, rows]`; None where it is not defined."""
    if method != "unrolled_one_order":
        return scores(base, method, kind, at)
    try:
        return by_unrolling(base, smoothed=False, pieces=0).double().numpy()
    except AttributionError as error:
        print(f"{base.name}: no {method}: {error}")
        return None


def asked(base: Base, method: str, kind: str) -> bool:
    if method.startswith("unrolled"):
        return kind == "validation_loss"
    return ALL[method].suits(base.task, base.seed, kind)


def same_order_rows(bases: list[Base]) -> list[Row]:
    """LDS and slope of the methods, each model against the truth of its own training."""
    rows: list[Row] = []
    for removed, count in bases[0].task.same_order.items():
        gone = masks_of(bases[0], removed)
        truths = [load_file(path_of(base, removed)) for base in bases]
        for kind, measured in MEASURED.items():
            found = [each[f"{measured}_tail"].double().numpy().reshape(count + 1, -1) for each in truths]
            truth = np.stack([each[:-1] - each[-1] for each in found])
            for method in METHODS:
                if not asked(bases[0], method, kind):
                    continue
                at = POINT.get(method, "tail")
                each = [scores_of(base, method, kind, at) for base in bases]
                defined = [place for place, one in enumerate(each) if one is not None]
                if not defined:
                    continue
                predicted = np.stack([predicted_change(one, gone) for one in each if one is not None])
                facts = {"task": bases[0].name, "query": kind, "removed": removed, "truth": TRUTH}
                facts |= {"retrainings": 1, "n": count, "method": method, "at": at}
                facts |= {"ensembled": False, "models": len(defined)}
                own = truth[defined]
                rows += [
                    facts | {"metric": "lds"} | rounded(lds_score(own, predicted)),
                    facts | {"metric": "slope"} | rounded(slope(own, predicted)),
                ]
    return rows
