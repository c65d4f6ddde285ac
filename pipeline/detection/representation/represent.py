"""Evidence about every row from the model's features early in training: neighbours, class distances, near-duplicates.

Features are those of the penultimate layer in the middle of the early window, scaled to length 1. Before that point the
model has learned little, and later it begins to memorise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from pipeline.artifacts import Step
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import Chunk, Rows
from pipeline.detection.representation.class_distance import ClassDistance, fit_class_distance
from pipeline.detection.representation.near_duplicates import count_near_duplicates
from pipeline.detection.representation.neighbours import (
    EXACT,
    build_index,
    margins,
    search_exactly,
    search_index,
    without_self,
)
from pipeline.models.features import penultimate_features
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import attribution_model
from pipeline.seeds import random_state
from pipeline.training.main_run import early_trajectory, whole_trajectory
from pipeline.workers.kept import keep
from pipeline.workers.worker import run_config, run_data, run_device

MOST_BYTES = 2**28
"""Upper limit for the bytes of the reference rows' features, whatever the config asks for."""
SLICE = 1024
NAMES = ("neighbour_margin", "own_distance", "nearest_distance", "near_duplicates")
CLEAN = "clean_neighbours"


def reference_path(run_path: Path) -> Path:
    return run_path / "detection" / "reference.safetensors"


def index_path(run_path: Path) -> Path:
    return run_path / "detection" / "reference.faiss"


def represent(context: AuditContext) -> dict[str, np.ndarray]:
    """Compute the evidence on the workers.

    Returns:
        The arrays of NAMES, `[train rows]` each: votes (float64), distances to the own and to the nearest class,
        near-duplicates. With clean validation rows also CLEAN, their votes.
    """
    path = context.run.path
    data = run_data(path)
    chunks = data.chunks("train")
    reference = Step(reference_path(path), index_path(path))
    if not reference.done:
        context.workers.run(_write_reference, [(path,)], ["neighbours: reference rows"])
        reference.finish()
    done = 0

    def tick(place: int, _: object) -> None:
        nonlocal done
        done += chunks[place].rows
        context.progress("detect: neighbours", done, data.count("train"), "rows")

    tasks = [(path, chunk) for chunk in chunks]
    parts = context.workers.run(_represent_chunk, tasks, [f"neighbours: chunk {c.id}" for c in chunks], tick)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _load_early_model(run_path: Path) -> torch.nn.Module:
    early, whole = early_trajectory(run_path), whole_trajectory(run_path)
    trajectory = Trajectory.load(early if (early / "trajectory.json").exists() else whole)
    checkpoint = (len(trajectory.checkpoints) - 1) // 2
    model = attribution_model(run_path)
    restore_weights(model, trajectory.load_weights(checkpoint), trajectory.checkpoints[checkpoint].path)
    return model


def row_features(run_path: Path, rows: Rows) -> Tensor:
    """The features of rows, scaled to length 1, float32 `[rows, width]`, on the device of this worker."""
    model, device = _load_early_model(run_path), run_device(run_path)
    parts = [
        penultimate_features(model, rows.select(slice(start, start + SLICE)).to(device).inputs)
        for start in range(0, len(rows), SLICE)
    ]
    return functional.normalize(torch.cat(parts), dim=1)


def _write_reference(run_path: Path) -> None:
    """Write the file of the reference rows, which are those with the smallest seeded hash (a task for a worker).

    It has `features` float32 `[reference rows, width]` (unless the index has them), `labels`, `places` among the train
    rows, and `whitening` and `means` of the class distance. With clean validation rows it also has `clean_features` and
    `clean_labels` of at most EXACT of them.
    """
    config, data = run_config(run_path).detection, run_data(run_path)
    count = data.count("train")
    order = random_state("neighbour reference", config.seed).permutation(count)
    width = row_features(run_path, data.load(data.chunks("train")[0]).select(slice(0, 1))).shape[1]
    chosen = np.sort(order[: max(2, min(config.reference_rows, MOST_BYTES // (4 * width)))])
    features, labels = _features_of(run_path, data.chunks("train"), chosen)
    classes, classification = data.encoding.outputs, data.encoding.task == "classification"
    own = labels.numpy() if classification else np.zeros(len(labels), dtype=np.int64)
    distance = fit_class_distance(features.numpy(), own, classes if classification else 1)
    tensors = {
        "labels": labels,
        "places": torch.from_numpy(chosen),
        "whitening": torch.from_numpy(distance.whitening),
        "means": torch.from_numpy(distance.means),
    }
    if len(labels) > EXACT:
        build_index(features, index_path(run_path), config.seed)
    else:
        tensors["features"] = features
    if run_config(run_path).data.validation_is_clean and data.count("validation"):
        tensors |= _clean_reference(run_path, min(EXACT, MOST_BYTES // (4 * width)), config.seed)
    save_tensors(reference_path(run_path), tensors)


def _clean_reference(run_path: Path, most: int, seed: int) -> dict[str, Tensor]:
    """`clean_features` and `clean_labels` of the validation rows, or of a seeded sample of `most` of them."""
    data = run_data(run_path)
    order = random_state("clean neighbours", seed).permutation(data.count("validation"))
    features, labels = _features_of(run_path, data.chunks("validation"), np.sort(order[: max(1, most)]))
    return {"clean_features": features, "clean_labels": labels}


def _features_of(run_path: Path, chunks: list[Chunk], chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """The features and labels of chosen rows of a role; `chosen` has their places in ascending order."""
    parts = []
    for chunk in chunks:
        which = chosen[chunk.holds(chosen)] - chunk.first
        if len(which):
            rows = run_data(run_path).load(chunk).select(torch.from_numpy(which))
            parts.append((row_features(run_path, rows).cpu(), rows.labels))
    features, labels = (torch.cat(each) for each in zip(*parts))
    return features, labels


def _represent_chunk(run_path: Path, chunk: Chunk) -> dict[str, np.ndarray]:
    """The evidence of `represent` for the rows of a chunk (a task for a worker)."""
    path, data = reference_path(run_path), run_data(run_path)
    reference = keep("reference", path, lambda: load_file(path))
    rows = data.load(chunk)
    features = row_features(run_path, rows)
    similarity, places = _nearest_rows(run_path, features, reference, chunk)
    found = reference["labels"][places]
    classification = data.encoding.task == "classification"
    classes = data.encoding.outputs if classification else None
    own = rows.labels.numpy() if classification else np.zeros(len(rows), dtype=np.int64)
    distance = ClassDistance(reference["whitening"].numpy(), reference["means"].numpy())
    own_distance, nearest_distance = distance.own_and_nearest(features.cpu().numpy(), own)
    contrary = data.encoding.target.contradict(rows.labels[:, None], found)
    among_train = reference["places"][places]
    twins = count_near_duplicates(data, rows, similarity.numpy(), contrary.numpy(), among_train.numpy())
    seen = {
        "neighbour_margin": margins(similarity, found, rows.labels, classes).numpy(),
        "own_distance": own_distance,
        "nearest_distance": nearest_distance,
        "near_duplicates": twins.astype(np.float32),
    }
    if "clean_features" in reference:
        clean, labels = reference["clean_features"].to(features.device), reference["clean_labels"]
        count = min(run_config(run_path).detection.neighbours, len(labels))
        similarity, places = (each.cpu() for each in search_exactly(clean, features, count))
        seen[CLEAN] = margins(similarity, labels[places], rows.labels, classes).numpy()
    return seen


def _nearest_rows(
    run_path: Path, features: Tensor, reference: dict[str, Tensor], chunk: Chunk
) -> tuple[Tensor, Tensor]:
    """The cosines and reference places of every row's nearest neighbours without the row, `[rows, neighbours]`."""
    count = min(run_config(run_path).detection.neighbours, len(reference["labels"]) - 1)
    if "features" in reference:
        similarity, places = search_exactly(reference["features"].to(features.device), features, count + 1)
    else:
        similarity, places = search_index(index_path(run_path), features, count + 1)
    similarity, places = similarity.cpu(), places.cpu()
    mine = torch.arange(chunk.first, chunk.first + chunk.rows)
    return without_self(similarity, places, reference["places"][places] == mine[:, None], count)
