"""Retrains an arm: the recipe and steps of the main run on other rows, measured on holdout and validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attribution.trajectory.recorder import first_tail_step
from pipeline.attribution.trajectory.weights import RunningMean
from pipeline.errors import WinnowError
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.training.batches import Selection
from pipeline.training.dynamics import BATCH, evaluate_role
from pipeline.training.loop import train
from pipeline.training.main_run import role_labels
from pipeline.training.recipe import make_recipe
from pipeline.training.setup import Setup, averaged_model, deterministic, set_up
from pipeline.verification.arms import arm_selection
from pipeline.verification.triggers import trigger_success
from pipeline.workers.worker import run_config, run_data


def retraining_path(run_path: Path, arm: str, seed: int) -> Path:
    return run_path / "verification" / f"{arm}-{seed}.safetensors"


def run_missing(
    context: AuditContext,
    what: str,
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    path_of: Callable[..., Path],
    names: Sequence[str],
    extra: tuple[int, int] = (0, 0),
) -> None:
    """Run tasks on the workers, except those whose result file exists.

    Args:
        context: of the audit.
        what: name of the work, for progress.
        function: computes a task and writes its file.
        tasks: the arguments of each call.
        path_of: `path_of(*task)` is the result file of a task.
        names: of the tasks, for errors.
        extra: how many tasks of the same work came before, and how many will follow; both count in the progress.
    """
    waiting = [place for place, task in enumerate(tasks) if not path_of(*task).exists()]
    before, after = extra
    done, total = before + len(tasks) - len(waiting), before + len(tasks) + after

    def show(_place: int, _result: Any) -> None:
        nonlocal done
        done += 1
        context.progress(what, done, total, "retrainings")

    context.progress(what, done, total, "retrainings")
    context.workers.run(
        function, [tasks[place] for place in waiting], [names[place] for place in waiting], show
    )


def retrain(run_path: Path, arm: str, seed: int) -> None:
    """Train an arm with a seed and write the results of `train_and_measure`, unless they exist (a task for a worker).

    Raises:
        WinnowError: the training diverges; the message names the arm and the seed.
    """
    path = retraining_path(run_path, arm, seed)
    if path.exists():
        return
    try:
        measured = train_and_measure(run_path, arm_selection(run_path, arm, seed), seed)
    except WinnowError as error:
        raise WinnowError(f"retraining {arm}, seed {seed}: {error.message}", error.hint) from error
    save_tensors(path, measured)


def train_and_measure(
    run_path: Path, selection: Selection, seed: int, order: int | None = None
) -> dict[str, Tensor]:
    """Train on the selected rows for as many steps as the main run took, and measure the model.

    The tail average is the mean of the last `training.tail` share of the iterates.

    Args:
        run_path: the run directory.
        selection: the train rows and their labels.
        seed: of the initial weights; arms with the same seed are paired.
        order: the seed of the row order and of dropout; None uses `seed`.

    Returns:
        Tensors for the result file:

        - rows: how many rows were trained on. seconds: the time.
        - with holdout rows: `tail_…`, the results of `measure` at the tail average; `final_score`, at the last weights.
        - with holdout rows and backdoor alarms: trigger_success, `[alarms]`.
        - with validation rows: `validation_…`, the results of `measure` at the tail average; validation_loss, the mean.

    Raises:
        WinnowError: a loss or a score is NaN or infinite.
    """
    begin = time.perf_counter()
    data = run_data(run_path)
    with deterministic():
        setup, averaged = train_selected(run_path, selection, seed, order)
        found: dict[str, Tensor] = {}
        if data.count("holdout"):
            found |= measure(setup, averaged, "holdout", "tail")
            found["final_score"] = measure(setup, setup.model, "holdout", "final")["final_score"]
            found |= trigger_success(run_path, averaged, setup.device)
        if data.count("validation"):
            found |= measure(setup, averaged, "validation", "validation")
            found["validation_loss"] = found["validation_losses"].double().mean()
    check_finite(found)
    seconds = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
    return found | {"rows": torch.tensor(setup.rows.count), "seconds": seconds}


def train_selected(
    run_path: Path, selection: Selection, seed: int, order: int | None = None, keep_steps: bool = True
) -> tuple[Setup, nn.Module]:
    """Train a model on the selected rows.

    Args:
        run_path: the run directory.
        selection: the train rows and their labels.
        seed: of the initial weights.
        order: the seed of the row order and of dropout; None uses `seed`.
        keep_steps: True trains as many steps as on all train rows, False as many epochs.

    Returns:
        The setup with the trained model, and a copy of the model at the tail average of its weights.
    """
    config, data = run_config(run_path).training, run_data(run_path)
    rows = data.count("train")
    recipe = make_recipe(
        config, rows if keep_steps else selection.count(rows), seed if order is None else order
    )
    setup = set_up(run_path, selection, seed, recipe)
    tail = TailAverage(setup.model, first_tail_step(recipe.steps, config.tail))
    train(setup, {"tail": tail})
    return setup, averaged_model(setup, tail.mean.mean())


def validation_losses(setup: Setup, model: nn.Module) -> Tensor:
    """The loss of every validation row, float32 `[validation rows]`."""
    return evaluate_role(model, setup.plain, setup.data, "validation", setup.device)["loss"]


def check_finite(measured: dict[str, Tensor]) -> None:
    for name, tensor in measured.items():
        if not torch.isfinite(tensor).all():
            raise WinnowError(f"{name} is NaN or infinite after training", "Lower training.learning_rate.")


def measure(setup: Setup, model: nn.Module, role: str, name: str) -> dict[str, Tensor]:
    """Measure a model on every row of a role.

    Args:
        setup: of the training.
        model: the model to measure.
        role: `validation` or `holdout`.
        name: prefix of the results' names.

    Returns:
        - `<name>_score`: float32 `[rows]`, from `row_scores`.
        - `<name>_losses`: float32 `[rows]`, in nats, or squared standardised errors for regression.
        - for classification, `<name>_top`: the predicted class, int16 or int32 `[rows]`.
        - for classification, `<name>_log_probability`: float16 `[rows, classes]`; expected losses need all classes.
    """
    measured = evaluate_role(model, setup.plain, setup.data, role, setup.device)
    found = {
        f"{name}_score": row_scores(measured, role_labels(setup.data, role)),
        f"{name}_losses": measured["loss"],
    }
    if "top_class" in measured:
        found[f"{name}_top"] = measured["top_class"][:, 0].contiguous()
        found[f"{name}_log_probability"] = log_probabilities(setup, model, role)
    return found


def log_probabilities(setup: Setup, model: nn.Module, role: str) -> Tensor:
    """The log probabilities of all classes, float16 `[rows, classes]`; rounding errors of 0.1 % average out."""
    parts: list[Tensor] = []
    model.eval()
    with torch.no_grad():
        for chunk in setup.data.chunks(role):
            rows = setup.data.load(chunk)
            for start in range(0, len(rows), BATCH):
                batch = rows.select(slice(start, start + BATCH)).to(setup.device)
                parts.append(model(batch.inputs).float().log_softmax(1).half().cpu())
    return torch.cat(parts)


def row_scores(measured: dict[str, Tensor], labels: Tensor) -> Tensor:
    """A score for each row, whose mean over the rows is the metric.

    The score is 1 for a right class and 0 for a wrong one, the F1 of the row for multi-label, and the row's part of R²
    for regression: R² = 1 − Σ e² / SST is the mean of 1 − n·e²/SST, where the labels of these rows fix SST.

    Args:
        measured: the results of `evaluate_role`.
        labels: the encoded labels of the rows.

    Returns:
        float32 `[rows]`.
    """
    if "top_class" in measured:
        return (measured["top_class"][:, 0].long() == labels).float()
    if "f1" in measured:
        return measured["f1"]
    target = labels.double()
    squares = (measured["prediction"].double() - target).square()
    total = (target - target.mean()).square().sum()
    return (1 - len(target) * squares / total).float()


class TailAverage:
    """An observer of training that averages the weights from step `first` (counted from 1) on."""

    def __init__(self, model: nn.Module, first: int):
        self._model, self._first = model, first
        self.mean = RunningMean()

    def after_step(self, step: int) -> None:
        if step >= self._first:
            self.mean.add(self._model.state_dict())

    def state_tensors(self) -> dict[str, Tensor]:
        return self.mean.to_tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.mean = RunningMean.from_tensors(tensors)
