"""Peers of the detection benchmark, on the rows, model and training recipe of an audit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from cleanlab.regression.learn import CleanLearning
from cleanlab.regression.rank import get_label_quality_scores as regression_quality
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPRegressor
from torch import Tensor
from torch.nn import functional

from benchmarks.detection_findings import Finding
from pipeline.attribution.trajectory.trajectory import Trajectory
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.config import AuditConfig
from pipeline.data.encoded import Rows
from pipeline.models.features import penultimate_features
from pipeline.runs.context import AuditContext
from pipeline.scoring.plan import attribution_model
from pipeline.training.batches import Selection
from pipeline.training.dynamics import BATCH, mean_column, read_epoch
from pipeline.training.loop import train
from pipeline.training.main_run import main_directory, role_labels, whole_trajectory
from pipeline.training.setup import class_weights, deterministic, set_up
from pipeline.workers.worker import run_config, run_data

FOLDS = 5
NEIGHBOURS = 20
SHAPLEY_NEIGHBOURS = (5, 10, 20)
DEFAULT = "default filter"


def peers(context: AuditContext) -> Iterator[Finding]:
    """All peers that apply to the task."""
    if run_data(context.run.path).encoding.task == "classification":
        yield from of_the_audited_training(context)
        yield from by_representation(context.run.path)
    yield from cleanlab(context)


def of_the_audited_training(context: AuditContext) -> Iterator[Finding]:
    """AUM (Pleiss et al. 2020) and agreement with the final prediction, by its confidence."""
    directory, epochs = main_directory(context.run.path), context.config.training.epochs
    yield Finding("aum", -mean_column(directory, "margin", epochs))
    final = read_epoch(directory, epochs)
    confidence = final["top_probability"][:, 0].double().numpy()
    agrees = (final["top_class"][:, 0] == role_labels(run_data(context.run.path), "train")).numpy()
    yield Finding("confidence_agreement", np.where(agrees, -confidence, confidence))


def by_representation(run_path: Path) -> Iterator[Finding]:
    """k-NN and kNN-Shapley on the last hidden layer at the end of the audited training, by cosine."""
    data = run_data(run_path)
    model, trajectory = attribution_model(run_path), Trajectory.load(whole_trajectory(run_path))
    restore_weights(model, trajectory.load_tail())

    def features(rows: Rows) -> Tensor:
        return functional.normalize(penultimate_features(model, rows.inputs), dim=1)

    train_rows, validation = data.load_role("train"), data.load_role("validation")
    mine, theirs = features(train_rows), features(validation)
    similarity = mine @ mine.T
    similarity.fill_diagonal_(-2)
    nearest = similarity.topk(NEIGHBOURS, dim=1).indices
    agreeing = (train_rows.labels[nearest] == train_rows.labels[:, None]).double().mean(1)
    yield Finding("knn", -agreeing.numpy())
    order = (theirs @ mine.T).argsort(dim=1, descending=True, stable=True).numpy()
    labels, wanted = train_rows.labels.numpy(), validation.labels.numpy()
    for neighbours in SHAPLEY_NEIGHBOURS:
        yield Finding(f"knn_shapley_{neighbours}", -knn_shapley(order, labels, wanted, neighbours))


def knn_shapley(order: np.ndarray, labels: np.ndarray, wanted: np.ndarray, neighbours: int) -> np.ndarray:
    """float64 `[rows]`: exact Shapley values of an unweighted k-NN classifier (Jia et al. 2019, theorem 1).

    order: int `[queries, rows]`, the train rows from the nearest to the farthest; labels: `[rows]`;
    wanted: `[queries]`, the queries' labels.
    """
    rows = order.shape[1]
    hit = (labels[order] == wanted[:, None]).astype(np.float64)
    place = np.arange(1, rows)
    steps = (hit[:, :-1] - hit[:, 1:]) / neighbours * np.minimum(neighbours, place) / place
    values = np.empty_like(hit)
    values[:, -1] = hit[:, -1] / rows
    values[:, :-1] = values[:, -1:] + np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
    total = np.zeros(rows)
    np.add.at(total, order.ravel(), values.ravel())
    return total / len(order)


def cleanlab(context: AuditContext) -> Iterator[Finding]:
    """Five folds of the audited model and recipe, at their end and where their out-of-sample loss is least."""
    data = run_data(context.run.path)
    labels = role_labels(data, "train").numpy()
    outputs = out_of_sample(context, labels)
    if data.encoding.task == "regression":
        predictions = outputs[:, :, 0]
        losses = np.square(predictions - labels).mean(axis=1)
        flagged = regression_issues(context.config, data.load_role("train").inputs, labels)
        for method, epoch in (("cleanlab", -1), ("cleanlab_early", int(losses.argmin()))):
            flags = {DEFAULT: flagged} if method == "cleanlab" else {}
            yield Finding(method, -regression_quality(labels, predictions[epoch]), flags)
        return
    own = outputs[:, np.arange(len(labels)), labels]
    losses = -np.log(np.maximum(own, 1e-12)).mean(axis=1)
    for method, epoch in (("cleanlab", -1), ("cleanlab_early", int(losses.argmin()))):
        of_epoch = outputs[epoch]
        flags = {DEFAULT: find_label_issues(labels, of_epoch, n_jobs=1)}
        yield Finding(method, -get_label_quality_scores(labels, of_epoch), flags)


def regression_issues(
    config: AuditConfig, inputs: Tensor | dict[str, Tensor], labels: np.ndarray
) -> np.ndarray:
    """bool `[rows]`: cleanlab's own search for wrong targets, with scikit-learn's network of the same recipe."""
    assert isinstance(inputs, Tensor)
    training = config.training
    model = MLPRegressor(
        hidden_layer_sizes=tuple(config.model.hidden),
        solver="sgd",
        learning_rate_init=training.learning_rate,
        momentum=training.momentum,
        nesterovs_momentum=False,
        alpha=training.weight_decay,
        batch_size=training.batch_size,
        max_iter=training.epochs,
        n_iter_no_change=training.epochs,
        random_state=training.seed,
    )
    found = CleanLearning(model, cv_n_folds=FOLDS, seed=training.seed).find_label_issues(
        inputs.numpy(), labels.astype(np.float64)
    )
    return found["is_label_issue"].to_numpy()


def out_of_sample(context: AuditContext, labels: np.ndarray) -> np.ndarray:
    """float32 `[epochs, rows, outputs]` by the training that did not see the row; probabilities, or targets."""
    classes = run_data(context.run.path).encoding.task == "classification"
    kind = StratifiedKFold if classes else KFold
    splitter = kind(FOLDS, shuffle=True, random_state=context.config.training.seed)
    merged: np.ndarray | None = None
    for _, held_out in splitter.split(labels, labels):
        found = train_without(context.run.path, held_out)
        if merged is None:
            merged = np.empty((len(found), len(labels), found.shape[2]), dtype=np.float32)
        merged[:, held_out] = found
    assert merged is not None
    return merged


def train_without(run_path: Path, held_out: np.ndarray) -> np.ndarray:
    """float32 `[epochs, held-out rows, outputs]`: what a training on the other rows makes of them."""
    data = run_data(run_path)
    config, keep = run_config(run_path).training, np.ones(data.count("train"), dtype=bool)
    keep[held_out] = False
    others = data.load_role("train").select(torch.from_numpy(held_out))
    found: list[Tensor] = []
    with deterministic():
        setup = set_up(run_path, Selection(keep, class_weights=class_weights(config, data)), config.seed)

        def after_epoch(_: int) -> None:
            setup.model.eval()
            with torch.no_grad():
                parts = [
                    setup.model(others.select(slice(start, start + BATCH)).inputs)
                    for start in range(0, len(others), BATCH)
                ]
            outputs = torch.cat(parts)
            found.append(outputs.softmax(1) if data.encoding.task == "classification" else outputs)

        train(setup, {}, after_epoch=after_epoch)
    return torch.stack(found).numpy()
