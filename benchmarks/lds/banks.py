"""Truth banks: the retrainings of a task in one small file, benchmarks/banks/TASK.safetensors.

A bank has the first `RETRAININGS` retrainings of each mask that removes half of the rows, and what every method reached
with the first base model.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lds import models, truth
from benchmarks.lds.bases import base_folder
from benchmarks.lds.predictions import kept_scores
from benchmarks.lds.questions import Question, questions
from benchmarks.lds.rows import QUERIES, Data, Origin
from benchmarks.lds.summary import rounded
from benchmarks.lds.tasks import NEXT_TOKEN, Recipe, Task
from benchmarks.results import HOME, header_of
from pipeline.faithfulness import bank as banks
from pipeline.faithfulness.row_hashes import row_hashes
from pipeline.verification.lds import ceiling, lds_score

FOLDER = HOME / "banks"
SHARE, RETRAININGS = 0.5, 10
AT = {"final": "the final weights", "tail": "the mean of the last quarter of the iterates"}
MAKES_TRUTH = (
    models,
    Recipe,
    truth.removed_rows,
    truth.train_many,
    truth.summed_loss,
    truth.orders,
    truth.loss,
    truth.sentence_losses,
    truth.query_values,
    truth.measure,
)


def write_bank(name: str, task: Task, data: Data) -> Path | None:
    """Write a task's bank from retrainings and scores that are kept; None where there are none."""
    asked = [
        replace(each, truth=each.truth[:, :RETRAININGS])
        for each in questions(name, task, data.stages, [kept_scores(base_folder(name, task, 0)).scores])
        if each.removed == SHARE
    ]
    if not asked or data.origin is None:
        return None
    path = FOLDER / f"{name}.safetensors"
    banks.write_bank(path, bank_of(name, task, data, data.origin, asked))
    return path


def bank_of(name: str, task: Task, data: Data, origin: Origin, asked: list[Question]) -> banks.Bank:
    made = header_of("lds")
    masks = len(asked[0].truth)
    return banks.Bank(
        task=name,
        dataset=origin.dataset,
        columns=origin.columns,
        recipe=recipe_of(task),
        code=code_of(task),
        made={"commit": str(made["commit"]), "date": made["date"], "command": command()},
        removed=np.stack([truth.removed_rows(data.stages, SHARE, mask, masks) for mask in range(masks)]),
        row_places=origin.places.astype(np.int64),
        row_hashes=row_hashes(origin.rows),
        row_labels=labels_of(data.labels),
        query_places=origin.query_places.astype(np.int64),
        query_labels=labels_of(data.validation_labels[:QUERIES]),
        questions={f"{each.kind}_{each.point}": of_question(task, each) for each in asked},
    )


def labels_of(labels: Tensor) -> np.ndarray:
    """float64 `[rows]`; sentences have no label, and 0 stands there."""
    found: np.ndarray = (labels if labels.dim() == 1 else torch.zeros(len(labels))).double().numpy()
    return found


def shipped_rows() -> list[dict[str, Any]]:
    """What the banks say of themselves, as rows of results."""
    rows: list[dict[str, Any]] = []
    for path in sorted(FOLDER.glob("*.safetensors")):
        found = banks.read_bank(path)
        for name, question in found.questions.items():
            kind, _, point = name.rpartition("_")
            masks, retrainings, _ = question.truth.shape
            common = {"task": path.stem, "query": kind, "truth": point, "removed": SHARE, "n": masks}
            common |= {"retrainings": retrainings, "train_rows": len(found.row_places)}
            figures = {"truth": question.ceiling, **question.published}
            rows += [
                common
                | {"method": method, "metric": "ceiling" if method == "truth" else "lds"}
                | rounded(figure)
                | {"commit": f"g{found.made['commit']}"}
                for method, figure in figures.items()
                if figure is not None
            ]
    return rows


def command() -> str:
    return " ".join(["python -m benchmarks.lds", *sys.argv[1:]])


def of_question(task: Task, asked: Question) -> banks.Question:
    single = asked.kind == "margins"
    what = SINGLE[task.recipe.loss] if single else "the mean validation loss"
    mean = asked.truth.mean(1)
    return banks.Question(
        words=f"{what}, at {AT[asked.point]}",
        rises_with_help=single and task.measures_margins,
        truth=asked.truth,
        ceiling=ceiling(asked.truth),
        published={
            f"{method} @{at}": lds_score(mean, found) for (method, at), found in asked.predicted.items()
        },
    )


SINGLE = {
    "cross_entropy": "single queries' margins log p/(1 − p)",
    "squared_error": "single queries' absolute errors",
    NEXT_TOKEN: "single sentences' losses per token",
}


def recipe_of(task: Task) -> str:
    """Model and training in words."""
    recipe, model = task.recipe, task.build()
    count = sum(value.numel() for value in model.parameters())
    rates = " then ".join(
        f"{epochs} epochs at {rate:g}" for epochs, rate in zip(recipe.epochs, recipe.learning_rate)
    )
    momentum = f", momentum {recipe.momentum:g}" if recipe.optimizer == "sgd" else ""
    return (
        f"{type(model).__name__} of {count:,} parameters, {recipe.loss}, {recipe.optimizer}{momentum}, {rates}, "
        f"weight decay {recipe.weight_decay:g}, batches of {recipe.batch_size}"
    )


def code_of(task: Task) -> str:
    """Changes with the code that trains, measures and draws masks, with the model and with the recipe."""
    text = "".join(inspect.getsource(each) for each in MAKES_TRUTH)
    return hashlib.sha256(f"{text}{task.fingerprint()}".encode()).hexdigest()[:12]
