"""The top 1 % for a query removed, against a random 1 %: how far the query's loss rises (`topk_removal`).

The rows that a method says help a query most are left out of the very training of the first base model, in its order
(`same_order.py`), so that chance has no part in the difference. The query's loss is compared with its mean without as
many random rows, at the mean of the last half of the iterates.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.lds.bases import Base
from benchmarks.lds.predictions import METHODS, scores
from benchmarks.lds.questions import paired_bootstrap
from benchmarks.lds.same_order import TRUTH, retrain_in_order
from benchmarks.lds.summary import rounded
from benchmarks.lds.tasks import Task
from benchmarks.lds.truth import measure
from pipeline.runs.tensors import save_tensors
from pipeline.verification.lds import random_mask

METRIC, DIFFERENCE = "topk_removal", "topk_difference"
SHARE = 0.01
ASKED, RANDOM = 20, 10
"""How many queries there are, and how many random removals."""
METHODS_ASKED = {
    "source": "tail",
    "source_refined": "tail",
    "influence": "final",
    "representation": "final",
    "representation_by_label": "final",
    "tfidf": "final",
    "bm25": "final",
}
"""Method -> where the query's gradient is taken."""
OURS = ("source", "source_refined")
LIKENESSES = ("representation", "representation_by_label", "tfidf", "bm25")
Row = dict[str, Any]


def top_rows_of(base: Base) -> list[Row]:
    """Retrain whatever is missing; the results of a task."""
    at_random = losses_without(base, random_removals(base))
    loss = {}
    for method, at in METHODS_ASKED.items():
        if not METHODS[method].suits(base.task, base.seed, "margins"):
            continue
        found = scores(base, method, "margins", at)
        if found is not None:
            helps = -found if base.task.measures_margins else found
            own = losses_without(base, most_helpful(helps[:ASKED]))
            loss[method] = own.diagonal()
    asked = len(next(iter(loss.values())))
    facts = {"task": base.name, "query": "single_losses", "removed": SHARE, "truth": TRUTH}
    facts |= {"retrainings": 1, "n": asked, "models": 1}
    rows = []
    for method, own in loss.items():

        def rise(queries: np.ndarray, removals: np.ndarray, own: np.ndarray = own) -> float:
            return float(own[queries].mean() - at_random[removals][:, queries].mean())

        figure = rounded(paired_bootstrap(rise, (asked, len(at_random))))
        rows.append(facts | {"method": method, "at": METHODS_ASKED[method], "metric": METRIC} | figure)
    mean = {method: own.mean() for method, own in loss.items()}
    best, other = (
        max((one for one in some if one in mean), key=lambda one: mean[one]) for some in (OURS, LIKENESSES)
    )
    ahead = loss[best] - loss[other]
    lead = paired_bootstrap(lambda queries: float(ahead[queries].mean()), (asked,))
    against = f"{other} @{METHODS_ASKED[other]}"
    facts |= {"method": best, "at": METHODS_ASKED[best], "metric": DIFFERENCE, "against": against}
    return [*rows, facts | rounded(lead)]


def most_helpful(helps: np.ndarray) -> np.ndarray:
    """The rows to remove for each query: bool `[queries, rows]`, of how much rows help, float `[queries, rows]`."""
    removed = np.zeros(helps.shape, dtype=bool)
    count = max(1, round(SHARE * helps.shape[1]))
    order = np.argsort(-helps, axis=1, kind="stable")[:, :count]
    np.put_along_axis(removed, order, True, axis=1)
    return removed


def random_removals(base: Base) -> np.ndarray:
    rows = len(base.data.labels)
    return np.stack([random_mask(rows, SHARE, "lds random top", place) for place in range(RANDOM)])


def losses_without(base: Base, removed: np.ndarray) -> np.ndarray:
    """The queries' losses after the base model's training without each set of rows: `[sets, queries]`.

    removed: bool `[sets, rows]`.
    """
    digest = hashlib.sha256(np.packbits(removed).tobytes()).hexdigest()[:12]
    path = base.folder / f"top_{digest}.safetensors"
    if not path.exists():
        counted = torch.from_numpy(~removed).float()
        parts = [
            measure(base.task, base.data, retrain_in_order(base, some))
            for some in counted.split(base.task.recipe.at_once)
        ]
        save_tensors(path, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        print(f"{base.name}: {len(removed)} retrainings without the top 1 %", flush=True)
    measured = load_file(path)["margins_tail"][:, :ASKED].double()
    return losses_of(base.task, measured)


def losses_of(task: Task, measured: torch.Tensor) -> np.ndarray:
    """Losses of what single queries are measured by: −log p of a margin log p/(1 − p), else itself."""
    return (torch.nn.functional.softplus(-measured) if task.measures_margins else measured).numpy()
