"""Compares the audit's scores with exact differentiation through its training (`verification.unrolled`).

The main run is repeated with its seed and recipe under a recorder and then differentiated. This gives every row's harm
to the mean validation loss without the approximations of SOURCE. The rank correlation of the two harms shows how much
these approximations cost. Where fidelity was measured, its groups also judge the exact derivative. A derivative may be
exact and predict no retraining long before it grows beyond its limit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.unrolling.replay import Replay
from pipeline.attribution.unrolling.unrolled import (
    GROWTH_LIMIT,
    UnrolledHarm,
    smoothing_pieces,
    unrolled_cost,
    unrolled_harm,
)
from pipeline.config import Training
from pipeline.errors import WinnowError
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import remove
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import batch_of, batches
from pipeline.seeds import random_state
from pipeline.training.batches import Selection
from pipeline.training.loop import train
from pipeline.training.replayed import ReplayObserver
from pipeline.training.setup import Setup, class_weights, deterministic, set_up
from pipeline.verification.fidelity import keep_only_current, level, removed_group
from pipeline.verification.forecast import validation_effects
from pipeline.verification.lds import (
    LEVELS,
    RESAMPLES,
    Estimate,
    lds_score,
    linear_correlation,
    pearson,
    predicted_change,
)
from pipeline.verification.retrain import run_missing
from pipeline.workers.worker import run_config, run_data

RECORDING, HARM = "recording", "harm.safetensors"


def folder(run_path: Path) -> Path:
    return run_path / "unrolled"


def harm_path(run_path: Path) -> Path:
    return folder(run_path) / HARM


def trainings(training: Training) -> float:
    """The cost in units of one training: the recorded training, and the work on its recording."""
    return 1 + unrolled_cost(training.known_epochs, smoothing_pieces(linear=training.optimizer == "sgd"))


def unroll(run_path: Path) -> None:
    """Repeat the main run and differentiate through it (a task for a worker).

    The result file has two tensors. `harm`, float64 `[train rows]`, is in nats; it is > 0 if removing the row lowers
    the mean validation loss (without label smoothing, at the tail average). `growth`, float64, is the growth of the
    derivatives through training.

    Raises:
        WinnowError: the training does not repeat bit for bit, or an operation can't be differentiated twice.
    """
    config, data = run_config(run_path).training, run_data(run_path)
    recording = folder(run_path) / RECORDING
    remove(recording)
    try:
        with deterministic():
            setup = set_up(run_path, Selection(class_weights=class_weights(config, data)), config.seed)
            train(setup, {"replay": ReplayObserver(setup, recording, config.query_tail)})
            found = _differentiate(run_path, setup, recording)
    finally:
        remove(recording)
    growth = torch.tensor(found.growth, dtype=torch.float64)
    save_tensors(harm_path(run_path), {"harm": found.harm, "growth": growth})


def _differentiate(run_path: Path, setup: Setup, recording: Path) -> UnrolledHarm:
    def rows(numbers: Tensor) -> Batch:
        return batch_of(run_path, setup.rows.select(numbers))

    query = (
        (batch.inputs, batch.labels)
        for chunk in setup.data.chunks("validation")
        for batch in batches(run_path, chunk)
    )
    try:
        return unrolled_harm(
            setup.model,
            Replay.load(recording),
            setup.objective,
            rows,
            query,
            query_objective=setup.plain,
        )
    except (
        AttributionError,
        RuntimeError,
    ) as error:  # torch raises RuntimeError for an operation without second derivatives
        raise WinnowError(
            f"verification.unrolled: the training can't be differentiated: {str(error).splitlines()[0]}",
            "Leave verification.unrolled out and run the same command again: it resumes from here.",
        ) from error


def compare_with_unrolled(context: AuditContext) -> dict[str, Any] | None:
    """Measure how well the scores agree with exact differentiation.

    Returns:
        The entry of verification.json; None if `verification.unrolled` is off.

        - correlation: Spearman's correlation of `validation_harm` with the exact harm over the train rows; value, low
          and high of the 95 % bootstrap interval over rows. None if training was chaotic, since the derivative then
          predicts nothing.
        - growth: of the derivatives through training; None if it is infinite.
        - limit: the growth above which training counts as chaotic.
        - chaotic: whether it does.
    """
    path = context.run.path
    if not context.config.verification.unrolled:
        return None
    keep_only_current(folder(path), [RECORDING, HARM], context.run)
    run_missing(
        context, "verify: unrolled", unroll, [(path,)], harm_path, ["differentiating through training"]
    )
    effects, found = validation_effects(path), load_file(harm_path(path))
    assert effects is not None  # a config without validation rows was refused
    growth = float(found["growth"])
    chaotic = UnrolledHarm(torch.from_numpy(found["harm"]), growth).chaotic
    return {
        "correlation": None if chaotic else _agreement(-effects, found["harm"]).as_json(),
        "growth": growth if math.isfinite(growth) else None,
        "limit": GROWTH_LIMIT,
        "chaotic": chaotic,
    }


def judge_by_groups(run_path: Path, unrolled: dict[str, Any], fidelity: dict[str, Any], seed: int) -> None:
    """Judge the exact derivative by the groups of fidelity.

    The entry of `compare_with_unrolled` gets the keys:

    - fidelity: the correlation of the changes that the exact harm predicts with those measured, with an interval.
    - ahead: its correlation minus that of the scores; value, low and high of the paired bootstrap over groups.
    - trusted: False if its fidelity is low, or if the whole interval of `ahead` is below 0.
    - same_order: its correlation with the changes measured in the same order; None without these.

    Nothing is added to a chaotic training, whose derivative predicts nothing anyway.

    Args:
        run_path: the run directory.
        unrolled: the entry of `compare_with_unrolled`; it is changed.
        fidelity: the entry of `measure_fidelity`.
        seed: which chose the rows of the groups.
    """
    if unrolled["chaotic"]:
        return
    harm = load_file(harm_path(run_path))["harm"]
    removed = np.stack([removed_group(len(harm), group, seed) for group in range(fidelity["groups"])])
    predicted = predicted_change(-harm[None], removed)[:, 0]
    unrolled |= judgement(predicted, np.array(fidelity["predicted"]), np.array(fidelity["measured"]))
    same = fidelity.get("same_order")
    measured = None if same is None else np.array(same["measured"])[:, None]
    unrolled["same_order"] = (
        None if measured is None else linear_correlation(measured, predicted[:, None]).as_json()
    )


def judgement(exact: np.ndarray, scores: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """The keys `fidelity`, `ahead` and `trusted` of `judge_by_groups`.

    Args:
        exact: changes that the exact harm predicts, float `[groups]`.
        scores: changes that the scores predict, float `[groups]`.
        measured: float `[groups]`.
    """
    own = linear_correlation(measured[:, None], exact[:, None])
    state = random_state("unrolled against scores")
    places = [np.arange(len(exact)), *state.randint(0, len(exact), (RESAMPLES, len(exact)))]

    def correlation(predicted: np.ndarray, place: np.ndarray) -> float:
        return float(pearson(predicted[place, None], measured[place, None])[0])

    leads = [correlation(exact, place) - correlation(scores, place) for place in places]
    low, high = np.percentile(leads[1:], LEVELS)
    return {
        "fidelity": own.as_json(),
        "ahead": Estimate(leads[0], float(low), float(high)).as_json(),
        "trusted": level(own) != "low" and float(high) >= 0,
    }


def _agreement(harm: np.ndarray, exact: np.ndarray) -> Estimate:
    """Spearman's correlation of two harms, float `[rows]` each, with a bootstrap interval over the rows."""
    return lds_score(exact[:, None], harm[:, None])
