"""The trial before the main run: it chooses the model, the learning rate and the epochs that are `auto` in the config.

Each setting is trained on some of the train rows and judged by its loss on others, which are no rows of validation or
holdout. First every model is tried with every learning rate for a few epochs. The best rates are then tried for as many
epochs as lower the loss.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.config import AuditConfig
from pipeline.errors import InputError
from pipeline.models import candidates
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import read_json, write_json
from pipeline.runs.settled import CHOSEN
from pipeline.training.recipe import steps_per_epoch
from pipeline.training.tried import PART, Setting, count_drawn, losses_of, try_setting
from pipeline.workers.worker import run_data

if TYPE_CHECKING:
    from pipeline.data.encode import Encoding

SGD_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
ADAM_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01)
SHORT_EPOCHS, SHORT_STEPS = 6, 60
"""A first try takes so many epochs, and so many steps where the rows are few."""
FEWEST_EPOCHS, MOST_EPOCHS = 5, 60
USUAL_EPOCHS = 20
OTHER_LENGTHS = (5, 10, 20, 40)
"""Epochs that are tried where the learning rate of a step depends on how many there will be."""
FEW_ROWS = 1_000
FOLDS = 2
"""Of fewer rows than FEW_ROWS, so many parts are held out in turn, since one part says little."""
LARGER = 0.25
"""With k times the rows of the trial, the loss is lowest after about k^−LARGER times the epochs."""


@dataclass(frozen=True)
class Tried:
    """A setting with its lowest loss on held-out rows, and after how many epochs it had it."""

    model: str
    learning_rate: float
    epochs: int
    loss: float


@dataclass(frozen=True)
class TrialPlan:
    """What a trial will try.

    Attributes:
        models: names, the usual one first.
        rates: learning rates.
        lengths: epochs of the trainings that decide.
        whole: whether every epoch of such a training is judged, and not only its end.
        short: epochs of a first try of all models and rates.
        rows: train rows that take part.
        folds: how many parts of them are held out in turn.
        per_epoch: steps of an epoch.
    """

    models: tuple[str, ...]
    rates: tuple[float, ...]
    lengths: tuple[int, ...]
    whole: bool
    short: int
    rows: int
    folds: int
    per_epoch: int

    @property
    def finalists(self) -> int:
        """How many settings are trained whole: the best rate of every model, or the two best of the only one."""
        return max(len(self.models), min(2, len(self.rates)))

    @property
    def most_steps(self) -> int:
        """Steps of all trainings, if none ends early."""
        several = len(self.models) * len(self.rates) > 1
        first = len(self.models) * len(self.rates) * self.short * several
        return self.folds * self.per_epoch * (first + self.finalists * sum(self.lengths))


def assumed(config: AuditConfig, encoding: Encoding) -> AuditConfig:
    """The config with usual values for what is left to the trial, for estimates before it."""
    rate = SGD_RATES[2] if config.training.optimizer == "sgd" else ADAM_RATES[2]
    usual = {
        "model.name": candidates(config.model, encoding)[0],
        "training.learning_rate": rate,
        "training.epochs": USUAL_EPOCHS,
    }
    return config.with_changes({key: usual[key] for key in config.left_to_trial})


def plan_trial(config: AuditConfig, encoding: Encoding, rows: int) -> TrialPlan:
    """What is tried on `rows` train rows."""
    left, training = config.left_to_trial, config.training
    models = candidates(config.model, encoding)
    usual = SGD_RATES if training.optimizer == "sgd" else ADAM_RATES
    rates = usual if "training.learning_rate" in left else (training.known_rate,)
    lengths: tuple[int, ...] = (MOST_EPOCHS,) if training.schedule == "constant" else OTHER_LENGTHS
    if "training.epochs" not in left:
        lengths = (training.known_epochs,)
    fitted = rows - rows // PART
    per_epoch = steps_per_epoch(fitted, min(training.batch_size, fitted))
    return TrialPlan(
        models=models if "model.name" in left else models[:1],
        rates=rates,
        lengths=lengths,
        whole="training.epochs" in left and training.schedule == "constant",
        short=min(max(lengths), max(SHORT_EPOCHS, -(-SHORT_STEPS // per_epoch))),
        rows=rows,
        folds=FOLDS if rows < FEW_ROWS else 1,
        per_epoch=per_epoch,
    )


def choose(context: AuditContext) -> dict[str, Any] | None:
    """Choose what the config leaves to the trial, unless that is done; the workers' configs have it from then on.

    Returns:
        What was tried and what was chosen, and the seconds that it took; None where nothing is left to the trial.

    Raises:
        InputError: every loss became infinite.
    """
    path, begin = context.run / CHOSEN, time.perf_counter()
    if not context.config.left_to_trial and not path.exists():
        return None
    if not path.exists():
        write_json(path, _tried(context))
    return {**read_json(path), "seconds": round(time.perf_counter() - begin, 3)}


def _tried(context: AuditContext) -> dict[str, Any]:
    config, work = context.config, _Work(context)
    data = work.data
    training = config.training
    drawn = count_drawn(data.count("train"), data.encoding.row_bytes, training.memory_budget)
    plan = plan_trial(config, data.encoding, drawn)
    settings = [
        Setting(model, rate, plan.short) for model, rate in itertools.product(plan.models, plan.rates)
    ]
    first: list[Tried] = []
    if len(settings) > 1:
        first = work.run(settings, plan.folds)
        settings = _finalists(first, plan)
    longer = [replace(each, epochs=length, whole=plan.whole) for each in settings for length in plan.lengths]
    found = work.run(longer, plan.folds)
    if not found:
        raise InputError(
            f"the trial of {', '.join(plan.models)}: the loss became infinite with every learning rate",
            "Look for extreme values in the features, or set training.learning_rate.",
        )
    best = min(found, key=lambda each: each.loss)
    epochs = best.epochs
    if "training.epochs" in config.left_to_trial:
        epochs = epochs_for(
            best.epochs, drawn, data.count("train"), training.batch_size, training.checkpoints
        )
    chosen = {
        "model.name": best.model,
        "training.learning_rate": best.learning_rate,
        "training.epochs": epochs,
    }
    return {
        "chosen": {key: chosen[key] for key in config.left_to_trial},
        "model": best.model,
        "learning_rate": best.learning_rate,
        "epochs": epochs,
        "tried": [asdict(each) for each in sorted(found, key=lambda each: each.loss)],
        "first": [asdict(each) for each in sorted(first, key=lambda each: each.loss)],
        "rows": drawn,
        "judged": sum(len(range(fold, drawn, PART)) for fold in range(plan.folds)),
    }


def epochs_for(best: int, drawn: int, rows: int, batch_size: int, checkpoints: int) -> int:
    """The epochs of the main run.

    Args:
        best: after how many epochs the loss was lowest in the trial.
        drawn: rows of the trial.
        rows: of the main run.
        batch_size: as configured.
        checkpoints: the fewest steps that the main run may have.
    """
    fewest = -(-checkpoints // steps_per_epoch(rows, min(batch_size, rows)))
    scaled = round(best * (drawn / rows) ** LARGER)
    return max(fewest, min(MOST_EPOCHS, max(FEWEST_EPOCHS, scaled)))


class _Work:
    """Runs trainings of the trial on the workers, and says how many are done."""

    def __init__(self, context: AuditContext):
        self._context, self._path = context, context.run.path
        self.data = run_data(self._path)

    def run(self, settings: Sequence[Setting], folds: int) -> list[Tried]:
        """Train with every setting, each part held out in turn; those with an infinite loss are left out."""
        every = [replace(setting, fold=fold) for setting in settings for fold in range(folds)]
        done = itertools.count(1)
        self._context.progress("trial", 0, len(every), "trainings")
        self._context.workers.run(
            try_setting,
            [(self._path, each) for each in every],
            [f"trial of {each.model} at {each.rate:g}" for each in every],
            lambda *_: self._context.progress("trial", next(done), len(every), "trainings"),
        )
        found = [self._best(setting, folds) for setting in settings]
        return [each for each in found if each is not None]

    def _best(self, setting: Setting, folds: int) -> Tried | None:
        curves = [losses_of(self._path, replace(setting, fold=fold)) for fold in range(folds)]
        means = mean_curve(curves)
        counting = means if setting.whole else [*[None] * (setting.epochs - 1), *means[setting.epochs - 1 :]]
        finite = [(loss, place) for place, loss in enumerate(counting) if loss is not None]
        if not finite:
            return None
        loss, place = min(finite)
        return Tried(setting.model, setting.rate, place + 1, loss)


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over the held-out parts after every epoch that all of them have; None where a loss was infinite."""
    return [
        None if any(each is None for each in losses) else sum(losses) / len(losses) for losses in zip(*curves)
    ]


def _finalists(first: Sequence[Tried], plan: TrialPlan) -> list[Setting]:
    """The best rate of every model, or the two best of the only one."""
    ranked = sorted(first, key=lambda each: each.loss)
    if len(plan.models) == 1:
        chosen = ranked[: plan.finalists]
    else:
        chosen = [each for name in plan.models for each in [*filter(lambda e: e.model == name, ranked)][:1]]
    return [Setting(each.model, each.learning_rate, plan.short) for each in chosen]
