"""Signal: whether a row's nearest neighbours, as the model sees rows early in training, have its label.

Neighbours are looked for among a seeded sample of the train rows, at the second checkpoint of the early window.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pipeline.attribution.trajectory import Trajectory
from pipeline.attribution.weights import restore_weights
from pipeline.compute.plan import attribution_model
from pipeline.compute.worker import keep, run_config, run_data, run_device
from pipeline.context import AuditContext
from pipeline.data.encoded import Chunk, Rows
from pipeline.detection.combination import Signal
from pipeline.models.features import penultimate_features
from pipeline.seeds import random_state
from pipeline.training.main_run import early_trajectory, whole_trajectory
from pipeline.training.state import save_tensors

CHECKPOINT = 1
"""The second: later ones have begun to memorise, the first has seen little."""
SLICE = 1024


def neighbour_margin(context: AuditContext) -> Signal:
    """Cosine-weighted votes of the nearest neighbours: the given label's share minus the best other's."""
    path, config = context.run.path, context.config.detection
    data = run_data(path)
    chunks = data.chunks("train")
    reference = path / "detection" / "reference.safetensors"
    if not reference.exists():
        context.workers.run(write_reference, [(path, reference)], ["neighbours: reference rows"])
    done = 0

    def tick(place: int, _: object) -> None:
        nonlocal done
        done += chunks[place].rows
        context.progress("detect: neighbours", done, data.count("train"), "rows")

    tasks = [(path, chunk, reference, config.neighbours) for chunk in chunks]
    margins = context.workers.run(vote, tasks, [f"neighbours: chunk {c.id}" for c in chunks], tick)
    return Signal(
        "neighbour_margin",
        np.concatenate(margins),
        False,
        "whether the rows most like it have the same label",
    )


def load_early_model(run_path: Path) -> torch.nn.Module:
    early, whole = early_trajectory(run_path), whole_trajectory(run_path)
    trajectory = Trajectory.load(early if (early / "trajectory.json").exists() else whole)
    checkpoint = min(CHECKPOINT, len(trajectory.checkpoints) - 1)
    model = attribution_model(run_path)
    restore_weights(model, trajectory.load_weights(checkpoint), trajectory.checkpoints[checkpoint].path)
    return model


def row_features(run_path: Path, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Unit-length features `[rows, width]`, labels and row ids."""
    model, device = load_early_model(run_path), run_device(run_path)
    parts = [
        penultimate_features(model, rows.select(slice(start, start + SLICE)).to(device).inputs)
        for start in range(0, len(rows), SLICE)
    ]
    return functional.normalize(torch.cat(parts), dim=1), rows.labels.to(device), rows.row_ids.to(device)


def write_reference(run_path: Path, path: Path) -> None:
    """Features, labels and ids of the reference rows: those with the smallest seeded hash (a task for a worker)."""
    config, data = run_config(run_path).detection, run_data(run_path)
    count = data.count("train")
    chosen = np.zeros(count, dtype=bool)
    chosen[random_state("neighbour reference", config.seed).permutation(count)[: config.reference_rows]] = (
        True
    )
    parts = []
    for chunk in data.chunks("train"):
        which = torch.from_numpy(np.flatnonzero(chosen[chunk.first : chunk.first + chunk.rows]))
        if len(which):
            rows = data.load(chunk).select(which)
            parts.append([each.cpu() for each in row_features(run_path, rows)])
    features, labels, ids = (torch.cat(each) for each in zip(*parts))
    save_tensors(path, {"features": features, "labels": labels, "row_ids": ids})


def vote(run_path: Path, chunk: Chunk, reference_path: Path, neighbours: int) -> np.ndarray:
    """float64 `[rows]` of a chunk (a task for a worker)."""
    reference = keep("reference", reference_path, lambda: load_file(reference_path))
    device, data = run_device(run_path), run_data(run_path)
    encoding = data.encoding
    features, labels, ids = row_features(run_path, data.load(chunk))
    there = {name: tensor.to(device) for name, tensor in reference.items()}
    count = min(neighbours, len(there["labels"]) - 1)
    margins = []
    for start in range(0, len(labels), SLICE):
        part = slice(start, start + SLICE)
        similarity = features[part] @ there["features"].T
        similarity[ids[part, None] == there["row_ids"][None]] = -2.0
        weights, places = similarity.topk(count, dim=1)
        weights = weights.clamp(min=0).double() + 1e-9
        found = there["labels"][places]
        if encoding.task == "regression":
            expected = (weights * found).sum(1) / weights.sum(1)
            margins.append(-(labels[part] - expected).abs())
        else:
            margins.append(vote_margin(weights, found, labels[part], encoding.outputs))
    return torch.cat(margins).cpu().numpy()


def vote_margin(weights: Tensor, found: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Shares of the votes: own minus the best other; weights and found labels are `[rows, neighbours]`."""
    votes = torch.zeros(len(labels), classes, dtype=torch.float64, device=labels.device)
    votes.scatter_add_(1, found, weights)
    votes /= votes.sum(1, keepdim=True)
    own = votes.gather(1, labels[:, None]).squeeze(1)
    others = votes.scatter(1, labels[:, None], -1.0)
    return own - others.amax(1)
