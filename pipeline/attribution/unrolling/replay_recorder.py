"""The recorder for exact unrolling: it records training so that it can be replayed bit for bit from stored states.

A recording is a folder:

    replay.json              optimizer, its groups, steps, training rows, the steps whose states are stored
    steps.safetensors        per step: rows, divisor of the summed loss, learning rates, and the random state before
                             the forward pass if that drew random numbers
    state-<step>.safetensors weights, buffers and optimizer state after this number of steps
    tail.safetensors         the mean of the weights after each of the last steps; only if ``tail`` isn't 0

States are stored every √T steps, or less often if the byte budget requires it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from pipeline.attribution.atomic import write_atomically
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.recorder import check_announced, first_tail_step
from pipeline.attribution.trajectory.weights import RunningMean, save_weights, write_tensors
from pipeline.attribution.unrolling.updates import check_step, check_unrollable, group_records

RECORD_NAME, STEPS_NAME, REPLAY_TAIL_NAME = "replay.json", "steps.safetensors", "tail.safetensors"
# The most bytes of all stored states, and also of the values of one piece while it is replayed.
BYTE_BUDGET = 2 << 30


class ReplayRecorder:
    """Records training for a bit-for-bit replay. Call ``step(rows)`` after every ``optimizer.step()``.

    A training step must minimise Σ losses / divisor of the given rows alone, and must apply the optimizer to the
    unchanged gradient. A replay finds out if a step did something else.

    Args:
        model: the model in training. BatchNorm can't be in training mode, because rows of a batch then depend on each
            other.
        optimizer: ``SGD`` without dampening, or ``Adam`` or ``AdamW`` without amsgrad. Learning rates may change
            during training; other options may not.
        directory: the folder of the recording. A recording that is there already is discarded.
        steps: T, the number of optimizer steps of training.
        train_rows: N, the number of training rows. Rows are numbered from 0 to N − 1.
        tail: the share of the last steps over which the weights of the query are averaged; 0 takes the final weights.
        byte_budget: the most bytes of all stored states, and also of the values of one piece while it is replayed.

    Raises:
        OptimizerError: training with the optimizer can't be unrolled.
        AttributionError: BatchNorm is in training mode, the budget is too small, a number is less than 1, or ``tail``
            isn't between 0 and 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        directory: str | Path,
        *,
        steps: int,
        train_rows: int,
        tail: float = 0.5,
        byte_budget: int = BYTE_BUDGET,
    ) -> None:
        check_announced(steps, train_rows, tail)
        self._every = check_recordable(model, optimizer, steps, byte_budget)
        self._model, self._optimizer, self._directory = model, optimizer, Path(directory)
        self._total, self._train_rows = steps, train_rows
        self._first_tail = first_tail_step(steps, tail) if tail > 0 else steps
        self._mean = RunningMean() if tail > 0 else None
        self._groups = group_records(model, optimizer)
        self._rows: list[Tensor] = []
        self._divisors: list[float] = []
        self._rates: list[list[float]] = []
        self._random: dict[int, Tensor] = {}
        self._stored: list[int] = []
        # A replay.json that is there belongs to another training.
        (self._directory / RECORD_NAME).unlink(missing_ok=True)
        self._before = random_state(model)
        self._drawn: Tensor | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._remember),
            model.register_forward_hook(self._compare),
        ]
        self._store()

    def step(self, rows: Tensor | Sequence[int], divisor: float | None = None) -> None:
        """Records one step. Call it after ``optimizer.step()`` and before the ``step()`` of a scheduler.

        Args:
            rows: integers ``[batch]``, the numbers of the batch's rows, in their order in the batch.
            divisor: the number by which the sum of the losses was divided; None is the number of rows.

        Raises:
            AttributionError: training takes more steps than announced, ``rows`` aren't numbers from 0 to N − 1, or
                BatchNorm is in training mode.
            OptimizerError: an option other than the learning rate changed.
        """
        done = len(self._rows)
        check_step(done + 1, self._total, group_records(self._model, self._optimizer), self._groups)
        check_batchnorm(self._model)
        numbers = _row_numbers(rows, self._train_rows, done + 1)
        if done == 0:
            self._training = training_modules(self._model)
        self._rows.append(numbers)
        self._divisors.append(float(len(numbers) if divisor is None else divisor))
        self._rates.append([float(group["lr"]) for group in self._optimizer.param_groups])
        if self._drawn is not None:
            self._random[done] = self._drawn
        if self._mean is not None and done + 1 >= self._first_tail:
            self._mean.add(self._model.state_dict())
        if (done + 1) % self._every == 0 or done + 1 == self._total:
            self._store()
        if done + 1 == self._total:
            self._finish()

    def _remember(self, _module: nn.Module, _args: Any) -> None:
        self._before = random_state(self._model)

    def _compare(self, _module: nn.Module, _args: Any, _outputs: Any) -> None:
        """Keeps the random state before a forward pass if the pass drew random numbers, as dropout does."""
        drew = not torch.equal(self._before, random_state(self._model))
        self._drawn = self._before if drew else None

    def _store(self) -> None:
        step = len(self._rows)
        self._stored.append(step)
        save_weights(state_path(self._directory, step), state_tensors(self._model, self._optimizer))

    def _finish(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._mean is not None:
            save_weights(self._directory / REPLAY_TAIL_NAME, self._mean.mean())
        tensors = {
            "rows": torch.cat(self._rows),
            "lengths": torch.tensor([len(rows) for rows in self._rows]),
            "divisors": torch.tensor(self._divisors, dtype=torch.float64),
            "rates": torch.tensor(self._rates, dtype=torch.float64),
            "drew": torch.tensor(sorted(self._random), dtype=torch.int64),
        }
        if self._random:
            tensors["random"] = torch.stack([self._random[step] for step in sorted(self._random)])
        with write_atomically(self._directory / STEPS_NAME) as temporary:
            write_tensors(tensors, temporary)
        record = {
            "optimizer": type(self._optimizer).__name__,
            "groups": self._groups,
            "steps": self._total,
            "train_rows": self._train_rows,
            "tail_steps": self._total - self._first_tail + 1,
            "averaged": self._mean is not None,
            "stored": self._stored,
            "training_modules": self._training,
        }
        with write_atomically(self._directory / RECORD_NAME) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _row_numbers(rows: Tensor | Sequence[int], train_rows: int, step: int) -> Tensor:
    """Returns a copy of the row numbers of a step, as int64 ``[batch]`` on the CPU.

    Args:
        rows: the row numbers.
        train_rows: N, the number of training rows.
        step: the number of the step, from 1, for messages.

    Raises:
        AttributionError: there are no row numbers, or they aren't whole numbers from 0 to N − 1.
    """
    given = rows.detach().cpu() if isinstance(rows, Tensor) else torch.as_tensor(rows)
    hint = "Give the numbers of the batch's rows in the training set."
    if not given.numel() or given.dim() != 1:
        raise AttributionError(f"Step {step} names no rows: its shape is {list(given.shape)}.", hint)
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        raise AttributionError(f"Step {step} names rows by {given.dtype}, not by whole numbers.", hint)
    if int(given.min()) < 0 or int(given.max()) >= train_rows:
        raise AttributionError(f"Step {step} names rows outside of 0 to {train_rows - 1}.", hint)
    return given.to(torch.int64, copy=True)


def check_recordable(
    model: nn.Module, optimizer: Optimizer, steps: int, byte_budget: int = BYTE_BUDGET
) -> int:
    """Returns the number of steps between stored states: √T, or more if the states would exceed the budget.

    Args:
        model: the model in training.
        optimizer: the optimizer.
        steps: T, the number of optimizer steps of training.
        byte_budget: as in ``ReplayRecorder``.

    Raises:
        OptimizerError: training with the optimizer can't be unrolled.
        AttributionError: BatchNorm is in training mode, or the budget is too small.
    """
    rule = check_unrollable(optimizer)
    check_batchnorm(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    others = sum(t.numel() * t.element_size() for t in model.state_dict().values()) - weights
    slots = len(rule.slots) * weights
    held = weights if rule.linear else 2 * weights + slots
    every = max(math.isqrt(steps - 1) + 1, -(-steps * (weights + others + slots) // byte_budget))
    if every * held > byte_budget:
        needed = math.isqrt(steps * (weights + others + slots) * held) + 1
        raise AttributionError(
            f"{steps} steps of this model can't be replayed within {byte_budget >> 20} MB.",
            f"Give a byte_budget of at least {max(needed, every * held) / 2**20:.0f} MB.",
        )
    return every


def state_path(directory: Path, step: int) -> Path:
    """Returns the path of the state after ``step`` steps."""
    return directory / f"state-{step}.safetensors"


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns weights, buffers and the optimizer's tensors as a flat dictionary for safetensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{slot}/{name}"] = value
    return tensors


def random_state(model: nn.Module) -> Tensor:
    """Returns the state of the random generator of the model's device, uint8."""
    device = next(model.parameters()).device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def training_modules(model: nn.Module) -> list[str]:
    """Returns the names of the modules in training mode."""
    return [name for name, module in model.named_modules() if module.training]


def check_batchnorm(model: nn.Module) -> None:
    """Checks that no BatchNorm module takes its statistics from the batch.

    Raises:
        AttributionError: a BatchNorm module is in training mode or has no running statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise AttributionError(
                f"{name!r} is BatchNorm in training mode: rows of a batch depend on each other.",
                "Unroll a model with GroupNorm or LayerNorm, or attribute with 'source'.",
            )
