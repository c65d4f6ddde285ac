"""Prepares the material of the search from a run directory; all functions run on a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import Chunk, EncodedData, Rows
from pipeline.detection.backdoor.content_space import ContentSpace
from pipeline.detection.backdoor.seeds import SeedScores, score_seeds
from pipeline.detection.backdoor.subject import Inputs, Subject, batch_rows, count, names_of
from pipeline.models.features import penultimate_features
from pipeline.runs.tensors import save_tensors
from pipeline.seeds import random_state
from pipeline.training.main_run import whole_trajectory
from pipeline.training.setup import deterministic
from pipeline.workers.kept import keep
from pipeline.workers.worker import run_config, run_data, run_device, run_model

MOST_ROWS = 20000
MOST_BYTES = 2**27
"""The search uses a sample of at most MOST_ROWS train rows with at most MOST_BYTES bytes."""
MOST_VALIDATION = 5000


def folder(run_path: Path) -> Path:
    return run_path / "detection" / "backdoor"


def material_path(run_path: Path) -> Path:
    return folder(run_path) / "material.safetensors"


def sample_places(data: EncodedData, role: str, most: int, seed: int) -> np.ndarray:
    """The places of the rows of a role that are searched, int64, ascending: all rows, or a sample within the limits."""
    rows = data.count(role)
    most = max(1, min(most, MOST_BYTES * rows // max(1, data.nbytes(role))))
    if rows <= most:
        return np.arange(rows)
    return np.sort(random_state(f"backdoor {role} sample", seed).permutation(rows)[:most])


def load_places(data: EncodedData, role: str, places: np.ndarray) -> Rows:
    """Load rows of a role by their places, in ascending order."""
    parts = []
    for chunk in data.chunks(role):
        inside = places[chunk.holds(places)] - chunk.first
        if len(inside):
            parts.append(data.load(chunk).select(torch.from_numpy(inside)))
    return Rows.concatenate(parts)


def as_inputs(rows: Rows, data: EncodedData) -> Inputs:
    return data.encoding.by_name(rows.inputs)


class Predictor:
    """Computes a model's probabilities for inputs, float32 `[rows, classes]`."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model.eval(), device

    def batches(self, inputs: Inputs) -> Iterator[Tensor | dict[str, Tensor]]:
        """Yield the inputs of the model batch by batch."""
        size = min(batch_rows(rows) for rows in inputs.values())
        for start in range(0, count(inputs), size):
            tensors = {kind: torch.tensor(rows[start : start + size]) for kind, rows in inputs.items()}
            there = {kind: tensor.to(self.device) for kind, tensor in tensors.items()}
            yield there if len(there) > 1 else next(iter(there.values()))

    def __call__(self, inputs: Inputs) -> np.ndarray:
        with torch.no_grad():
            parts = [self.model(batch).softmax(1).cpu() for batch in self.batches(inputs)]
        return torch.cat(parts).float().numpy()

    def features(self, inputs: Inputs) -> np.ndarray:
        """The penultimate features, float32 `[rows, width]`."""
        parts = [penultimate_features(self.model, batch).cpu() for batch in self.batches(inputs)]
        return torch.cat(parts).numpy()


def final_predictor(run_path: Path) -> Predictor:
    """The predictor of the main run at its last checkpoint."""
    path = whole_trajectory(run_path)

    def load() -> Predictor:
        trajectory = Trajectory.load(path)
        last = len(trajectory.checkpoints) - 1
        model = run_model(run_path, 0)
        restore_weights(model, trajectory.load_weights(last), trajectory.checkpoints[last].path)
        return Predictor(model, run_device(run_path))

    return keep("backdoor model", path / "trajectory.json", load)


def write_material(run_path: Path) -> None:
    """Write predictions, features and scores of `seeds` for the searched rows (a task for a worker)."""
    if material_path(run_path).exists():
        return
    with deterministic():
        data, seed = run_data(run_path), run_config(run_path).detection.seed
        places = sample_places(data, "train", MOST_ROWS, seed)
        predictor = final_predictor(run_path)
        rows = load_places(data, "train", places)
        inputs, labels = as_inputs(rows, data), rows.labels.numpy()
        tensors = {
            "places": places,
            "labels": labels,
            "probabilities": predictor(inputs),
            "features": predictor.features(inputs),
        }
        subject = _make_subject(run_path, inputs, tensors)
        own_share = _content_space(subject).own_share(inputs, labels, in_search=True)
        scores = score_seeds(subject, own_share)
        tensors |= {"sure": scores.sure, "steady": scores.steady}
        save_tensors(
            material_path(run_path), {name: torch.from_numpy(each) for name, each in tensors.items()}
        )


def _make_subject(run_path: Path, inputs: Inputs, tensors: dict[str, np.ndarray]) -> Subject:
    data, seed = run_data(run_path), run_config(run_path).detection.seed
    validation = load_places(data, "validation", sample_places(data, "validation", MOST_VALIDATION, seed))
    return Subject(
        inputs=inputs,
        labels=tensors["labels"],
        probabilities=tensors["probabilities"],
        features=tensors["features"],
        validation=as_inputs(validation, data),
        validation_labels=validation.labels.numpy(),
        predict=final_predictor(run_path),
        names=names_of(data.encoding),
        seed=seed,
    )


def read_material(run_path: Path) -> tuple[Subject, SeedScores]:
    """Read what `write_material` wrote, with the rows; each worker reads it once."""

    def load() -> tuple[Subject, SeedScores]:
        data, tensors = run_data(run_path), load_file(material_path(run_path))
        inputs = as_inputs(load_places(data, "train", tensors["places"]), data)
        scores = SeedScores(tensors["sure"], tensors["steady"])
        return _make_subject(run_path, inputs, tensors), scores

    return keep("backdoor material", material_path(run_path), load)


def _content_space(subject: Subject) -> ContentSpace:
    return ContentSpace(subject.inputs, subject.labels, subject.seed)


def chunk_scores(run_path: Path, chunk: Chunk) -> np.ndarray:
    """The score `SeedScores.sure` of each row of a train chunk, float32 `[rows]`."""
    tensors = load_file(material_path(run_path))
    data = run_data(run_path)
    if len(tensors["places"]) == data.count("train"):
        return tensors["sure"][chunk.first : chunk.first + chunk.rows]
    subject, _ = read_material(run_path)
    rows = data.load(chunk)
    inputs, labels = as_inputs(rows, data), rows.labels.numpy()
    own = final_predictor(run_path)(inputs)[np.arange(len(labels)), labels]
    space = keep("content space", material_path(run_path), lambda: _content_space(subject))
    return own * (1 - space.own_share(inputs, labels, in_search=False))
