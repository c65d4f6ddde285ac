"""One retraining of one arm: the main run's recipe and steps on other rows, measured on the holdout."""

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
    """`function(*task)` on the workers wherever the file `path_of(*task)` is not there yet; the others count as done.

    what, names: of the work and of each task, for those who watch and for errors; extra: how many tasks of the same
    work were done before, and how many follow.
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
    """Train `arm` with `seed` and write what `train_and_measure` gives (a task for a worker).

    A file that is there is not made again.

    Raises WinnowError, with the arm and the seed, when the training diverges.
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
    """Train on the selected rows for as many steps as all train rows take, and measure the result.

    The initial weights depend on `seed` alone, so that arms are paired; the order of the rows, and dropout, on `order`,
    by default the same. Returns `rows` (how many were trained on), `seconds`, and on the holdout, if there is one,
    what `measure` gives as `tail_…` at the mean of the last `training.tail` share of iterates and as `final_score` at
    the last one; with a validation set also `validation_…`, at the tail average, and `validation_loss`, the mean;
    with backdoor alarms also `trigger_success` `[alarms]`.

    Raises WinnowError when a loss becomes NaN or infinite.
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
    """A model trained on the selected rows, in the setup, and a copy at the mean of its last iterates.

    keep_steps: as many steps as all train rows take; else as many epochs.
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
    """float32 `[validation rows]`."""
    return evaluate_role(model, setup.plain, setup.data, "validation", setup.device)["loss"]


def check_finite(measured: dict[str, Tensor]) -> None:
    for name, tensor in measured.items():
        if not torch.isfinite(tensor).all():
            raise WinnowError(f"{name} is NaN or infinite after training", "Lower training.learning_rate.")


def measure(setup: Setup, model: nn.Module, role: str, name: str) -> dict[str, Tensor]:
    """Every row of a role: `NAME_score` (`row_scores`), `NAME_losses`, float32 `[rows]`, in nats or squared
    standardised errors; of classes also `NAME_top`, the class predicted, int16 or int32 `[rows]`, and
    `NAME_log_probability`, float16 `[rows, classes]`: expected losses take all of them.
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
    """float16 `[rows, classes]`; relative errors of a thousandth, which average out."""
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
    """float32 `[rows]` whose mean is the metric: 1 where the prediction is right, a row's F1 or its share of R².

    R² = 1 − Σ e² / SST is the mean of 1 − n·e²/SST, where SST is fixed by the labels of these rows.
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
