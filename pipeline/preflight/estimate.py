"""Estimates how long each stage of an audit will take, from trial runs on the workers."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.attribution.curvature.eigenbases import eigenbases
from pipeline.attribution.curvature.passes import FactorTask, fit_covariances, fit_eigenvalues
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.methods import find_method
from pipeline.attribution.model.capture import covered_layers
from pipeline.attribution.rows.batch import Batch
from pipeline.config import AuditConfig
from pipeline.data.encoded import Rows
from pipeline.detection.backdoor.search_data import MOST_ROWS
from pipeline.scoring.refine import refined_settings
from pipeline.training.batches import Selection
from pipeline.training.dynamics import evaluate_role
from pipeline.training.loop import training_step
from pipeline.training.main_run import role_labels
from pipeline.training.recipe import Recipe
from pipeline.training.setup import Setup, deterministic, set_up
from pipeline.verification import unrolled
from pipeline.verification.fidelity import controls
from pipeline.verification.retrain import TailAverage
from pipeline.workers.cluster import Workers
from pipeline.workers.worker import run_config

TRIAL_SECONDS = 0.7
TRIALS = 4  # at most so many workers run trials
ATTRIBUTE_COST = 2.0  # time of a row's scores, in units of `Costs.eigenvalue_row`
PRODUCT_COST = 4.0  # time of a row's product with the Gauss–Newton matrix, in units of `Costs.covariance_row`
SIGNALS_ROW = 2e-4  # seconds on one core for a row's neighbours and signals, measured on the samples
SEARCH_ROW = {
    "pixels": 8e-4,
    "texts": 8e-4,
    "columns": 1e-3,
}  # seconds on one core to search a row for backdoors
# Seconds on one core for one fold of the panel, from plain fits of 2,000 to 8,000 rows: word and character TF-IDF with
# a logistic regression for each class, 150 extra trees, and 60 boosted trees for each class. `…_ROW` is per row.
TEXT_ROW, TEXT_CLASS_ROW = 3.4e-4, 5e-5
FOREST, FOREST_ROW = 0.35, 9e-5
BOOSTING, BOOSTING_ROW = 0.03, 3e-5
COMPONENTS = 2.5  # time of boosting on the components of images, in units of boosting on a table
TRIMMED = (
    3.0  # time of a judge of numeric targets, which is also fitted in folds of its own, in units of one fit
)
TARGET_ROUNDS = 2.5  # time of boosting for a numeric target, in units of boosting for a class


@dataclass(frozen=True)
class Costs:
    """Seconds on one worker while the others also work.

    Attributes:
        step: of a training step with its batch.
        average: that a recorder adds to a step.
        evaluated_row: of a row in an evaluation, with reading and writing.
        covariance_row: of a row in the first pass of the factors, for the covariances.
        eigenvalue_row: of a row in the second pass of the factors, for the eigenvalue correction.
        eigenvectors: of all eigendecompositions.
        loaded_row: of a row at the start of a training, with a share of the model.
        validation: of the pass that validated the data.
        encoded_row: of encoding a row.
        start: until the workers have started and have imported what the stages need.
    """

    step: float
    average: float
    evaluated_row: float
    covariance_row: float
    eigenvalue_row: float
    eigenvectors: float
    loaded_row: float
    validation: float = 0.0
    encoded_row: float = 0.0
    start: float = 0.0


@dataclass(frozen=True)
class Sizes:
    """The sizes of data and model from which time, memory and disk are estimated.

    Attributes:
        rows: role → number of rows.
        row_bytes: size of an encoded row.
        parameters: of the model.
        factor_numbers: how many numbers the covariances of the covered layers have.
        source_bytes: size of the source files.
        workers: how many there are.
        kinds: how plain models see the features (`judged_as` of the encoders).
        classes: how many classes or labels there are; 0 for a numeric target.
    """

    rows: dict[str, int]
    row_bytes: int
    parameters: int
    factor_numbers: int
    source_bytes: int
    workers: int
    kinds: frozenset[str] = frozenset()
    classes: int = 0


def is_preconditioned(config: AuditConfig) -> bool:
    """Whether attribution works in the scaled coordinates of Adam, which needs a row's full gradient matrices."""
    return config.training.optimizer != "sgd" and find_method(config.attribution.method).preconditioned


def gradient_points(config: AuditConfig) -> int:
    """At how many points of training the method takes the gradients of every row."""
    points = find_method(config.attribution.method).points
    return {"mean": config.attribution.segments, "end": 1, "query": 1}.get(
        points, config.training.checkpoints
    )


def measure(workers: Workers, count: int, run_path: Path, recipe: Recipe) -> Costs:
    """Measure the costs as means over trials that run at the same time on `count` workers (at most TRIALS)."""
    count = min(count, TRIALS)
    names = [f"trial {place + 1}" for place in range(count)]
    begin = time.perf_counter()
    workers.run(_imports, [()] * count, names)
    start = time.perf_counter() - begin
    found = workers.run(_trial, [(run_path, recipe, TRIAL_SECONDS)] * count, names)
    costs = Costs(
        **{f.name: float(np.mean([getattr(each, f.name) for each in found])) for f in fields(Costs)}
    )
    return replace(costs, start=start)


def _imports() -> None:
    """A task that does nothing; it has finished when a worker has imported this module."""


def _trial(run_path: Path, recipe: Recipe, seconds: float) -> Costs:
    """Time real training steps and passes over the sample in the run directory (a task for a worker).

    Args:
        run_path: the run directory.
        recipe: of the main run.
        seconds: how long each measurement is repeated.
    """
    with deterministic():
        return _timed(run_path, recipe, seconds)


def _timed(run_path: Path, recipe: Recipe, seconds: float) -> Costs:
    config = run_config(run_path)

    def seconds_of(work: Callable[[], Any]) -> float:
        return _mean_seconds(work, seconds)

    def start() -> Setup:
        return set_up(run_path, Selection(), config.training.seed, recipe)

    setup = start()
    loaded = seconds_of(start)
    batches, tail = _endless(setup), TailAverage(setup.model, 1)
    setup.model.train()
    step = seconds_of(lambda: training_step(setup, next(batches).to(setup.device), 0))
    average = seconds_of(lambda: tail.after_step(1))
    path = run_path / f"trial-{os.getpid()}.safetensors"

    def evaluation() -> None:
        evaluate_role(setup.model, setup.plain, setup.data, "train", setup.device, path=path)
        role_labels(setup.data, "train")

    evaluated = seconds_of(evaluation)
    rows = setup.data.load(setup.data.chunks("train")[0])
    rows = rows.select(slice(0, config.attribution.batch_size)).to(setup.device)
    layers = covered_layers(setup.model) if is_preconditioned(config) else []
    scales = {layer.name: Preconditioner(torch.full(layer.shape, 2.0), None) for layer in layers}
    batch = Batch(rows.inputs, rows.labels, rows.row_ids)
    task = FactorTask(
        setup.model,
        lambda _: None,
        setup.objective,
        (0,),
        0,
        config.attribution.fisher,
        scales,
        widest_outputs=config.attribution.widest_outputs,
    )
    sums = fit_covariances(task, [batch])
    covariance = seconds_of(lambda: fit_covariances(task, [batch]))
    begin = time.perf_counter()
    bases = eigenbases(sums)
    eigenvectors = time.perf_counter() - begin
    spectrum = seconds_of(lambda: fit_eigenvalues(task, [batch], bases))
    train = setup.data.count("train")
    return Costs(
        step=step,
        average=average,
        evaluated_row=evaluated / train,
        covariance_row=covariance / len(rows),
        eigenvalue_row=spectrum / len(rows),
        eigenvectors=eigenvectors,
        loaded_row=loaded / train,
    )


def _endless(setup: Setup) -> Iterator[Rows]:
    """The batches of all epochs, without end."""
    for epoch in itertools.count():
        yield from setup.rows.batches(setup.recipe.batch_size, setup.recipe.seed, epoch)


def _mean_seconds(work: Callable[[], Any], seconds: float) -> float:
    """The mean time of a call; after one call to warm up, calls are repeated for about `seconds` seconds."""
    work()
    count, begin = 0, time.perf_counter()
    while count < 2 or (time.perf_counter() - begin < seconds and count < 500):
        work()
        count += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count


def stage_seconds(config: AuditConfig, sizes: Sizes, costs: Costs, recipe: Recipe) -> dict[str, float]:
    """Estimate the seconds of each stage; the start of the workers counts in `train`.

    Opening the run and writing the export and the report are left out.
    """
    train, validation, holdout = (sizes.rows[role] for role in ("train", "validation", "holdout"))
    epochs, loading = config.training.known_epochs, train * costs.loaded_row
    steps = recipe.steps * costs.step
    evaluation = (train + validation) * costs.evaluated_row
    training = loading + steps + recipe.steps * costs.average + epochs * evaluation
    if config.training.trajectory is not None:
        training = min(epochs, config.training.checkpoints) * evaluation
    half = loading + steps / 2 + epochs * (train / 2 + validation) * costs.evaluated_row
    halves = half * 2 / min(2, sizes.workers) if config.detection.halves else 0.0
    passes = gradient_points(config) * train / sizes.workers
    refined = refined_settings(config.attribution).within(train)
    products = refined.iterations * refined.rows / sizes.workers
    method, segments = find_method(config.attribution.method), config.attribution.segments
    products *= segments * method.refined
    fitting = costs.covariance_row + costs.eigenvalue_row if method.fitted else 0.0
    if method.similarity is not None:
        fitting = costs.eigenvalue_row  # a pass for the metric of features
    found = {
        "prepare": costs.validation + sum(sizes.rows.values()) * costs.encoded_row,
        "train": costs.start + halves + training,
        "factors": passes * fitting
        + segments * costs.eigenvectors * method.fitted
        + products * PRODUCT_COST * costs.covariance_row,
        "attribute": passes * ATTRIBUTE_COST * costs.eigenvalue_row,
    }
    once = sum(seconds for name, seconds in found.items() if name != "prepare") - costs.start
    if config.detection.panel:
        folds = config.detection.panel_folds
        fitted = min(train, config.detection.panel_rows)
        judged_twice = any(name in config.data.features for name in config.data.group)  # by blind judges too
        fits = folds * (1 + judged_twice) * panel_seconds(fitted, sizes.kinds, sizes.classes)
        found["panel"] = fits / min(sizes.workers, folds)
    searched = min(train, MOST_ROWS) if config.detection.backdoors and validation else 0
    found["detect"] = train * SIGNALS_ROW + searched * SEARCH_ROW[_searched_as(sizes.kinds)] / sizes.workers
    found["attribute"] += max(0, config.attribution.ensemble - config.detection.repeats) * once
    found["detect"] += (config.detection.repeats - 1) * once
    if retrainings(config):
        averages = config.training.tail * recipe.steps * costs.average
        one = loading + steps + averages + (2 * holdout + validation) * costs.evaluated_row
        count = retrainings(config) + fidelity_retrainings(config, validation)
        found["verify"] = -(-count // sizes.workers) * one
    if config.verification.unrolled:
        found["verify"] = found.get("verify", 0.0) + unrolled.trainings(config.training) * steps
    return found


def _searched_as(kinds: frozenset[str]) -> str:
    """The key of SEARCH_ROW for the features; `kinds`: how plain models see them (`judged_as` of the encoders)."""
    return next((kind for kind in ("pixels", "texts") if kind in kinds), "columns")


def panel_seconds(rows: int, kinds: frozenset[str], classes: int) -> float:
    """Estimate the seconds on one core for all judges and one fold.

    Args:
        rows: train rows of all folds together.
        kinds: how plain models see the features (`judged_as` of the encoders).
        classes: how many classes or labels there are; 0 for a numeric target.
    """
    outputs = 1 if classes <= 2 else classes
    seconds = 0.0
    if "texts" in kinds:
        seconds += rows * (TEXT_ROW + TEXT_CLASS_ROW * outputs)
    if kinds - {"texts"}:
        wider = COMPONENTS if "pixels" in kinds else 1.0
        boosting = outputs * (BOOSTING + rows * BOOSTING_ROW) * wider * (1.0 if classes else TARGET_ROUNDS)
        seconds += (FOREST + rows * FOREST_ROW + boosting) * (1.0 if classes else TRIMMED)
    return seconds


def retrainings(config: AuditConfig) -> int:
    """How many retrainings verification makes if rows are flagged: `as_given`, every arm, and one control per seed."""
    return config.verification.seeds * (len(config.verification.arms) + 2)


def fidelity_retrainings(config: AuditConfig, validation: int) -> int:
    """How many further retrainings measure fidelity; `validation` is the number of validation rows."""
    wanted = config.verification.seeds and validation and not config.detection.canaries
    groups = config.verification.fidelity_groups(flagged=True) if wanted else 0
    return groups + controls(groups) + (groups + 1 if groups and config.verification.same_order else 0)
