"""Losses and gradient norms of the steps around every checkpoint, as training had them.

``attribute`` compares them with the objective that it is told (``misfits/``).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.trajectory.wrapped_models import whole

# The most steps that are measured before a checkpoint, and after it.
_AROUND = 16


@dataclass(frozen=True)
class MeasuredStep:
    """What is known about one step.

    Attributes:
        step: the number of the step, from 1.
        loss: the loss that the step's gradient is of, at the weights before the step; None if it wasn't given.
        gradient_norm: the norm of the gradient that the optimizer applied, over all its parameters; None if it wasn't
            measured.
    """

    step: int
    loss: float | None
    gradient_norm: float | None


class StepMeasures:
    """Measures the steps of a recorder. Values stay on their device until ``records`` is called."""

    def __init__(self) -> None:
        self._held: list[tuple[int, Any, Any]] = []
        self._chosen: set[int] = set()
        self._watch = _GradientWatch()

    def start(self, optimizer: Optimizer, checkpoints: Sequence[int], first: int, norms: bool) -> None:
        """Begins a stage.

        Args:
            optimizer: the optimizer of the stage.
            checkpoints: the steps after which the stage has checkpoints, ascending.
            first: the first step of the stage.
            norms: whether gradient norms are measured.
        """
        around = min(_AROUND, max(1, (checkpoints[-1] - first + 1) // (2 * len(checkpoints))))
        near = {step for each in checkpoints for step in range(each - around + 1, each + around + 1)}
        self._chosen |= {step for step in near if first <= step <= checkpoints[-1]}
        self._watch.stop()
        if norms and _keeps_gradients(optimizer):
            self._watch.start(optimizer)

    def expect(self, step: int) -> None:
        """Says which step comes next. Its gradient is measured if the step is near a checkpoint."""
        self._watch.wanted = step in self._chosen

    def add(self, step: int, loss: Tensor | float | None) -> None:
        """Notes a step that was done.

        Raises:
            AttributionError: the loss isn't one number.
        """
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                raise AttributionError(
                    f"The loss of step {step} has shape {tuple(loss.shape)}.",
                    "Give the one number that backward() was called on.",
                )
            loss = loss.detach()
        norm, self._watch.norm = self._watch.norm, None
        if step in self._chosen and (loss is not None or norm is not None):
            self._held.append((step, loss, norm))

    def stop(self) -> None:
        """Measures no more gradients."""
        self._watch.stop()

    def records(self) -> list[list[Any]]:
        """Returns ``[step, loss, gradient norm]`` of every measured step, for JSON. What isn't finite is None."""
        self._held = [(step, _number(loss), _number(norm)) for step, loss, norm in self._held]
        return [list(each) for each in self._held]

    def restore(self, records: Sequence[Sequence[Any]]) -> None:
        """Continues from what ``records`` returned."""
        self._held = [(int(step), loss, norm) for step, loss, norm in records]


def measured_steps(records: Sequence[Sequence[Any]]) -> tuple[MeasuredStep, ...]:
    """Returns the steps of ``StepMeasures.records``."""
    return tuple(MeasuredStep(int(step), _number(loss), _number(norm)) for step, loss, norm in records)


class _GradientWatch:
    """Measures the norm of the gradient of a step right after the optimizer applied it, before the loop clears it.

    Attributes:
        wanted: whether the next step is measured.
        norm: the norm of the step that was done last, a tensor of one number, or None.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.norm: Tensor | None = None
        self._stop: weakref.finalize[Any, Any] | None = None

    def start(self, optimizer: Optimizer) -> None:
        # The hook holds this object by a weak reference, so a recorder that is dropped takes its hook along.
        held = weakref.ref(self)

        def measure(done: Optimizer, _args: Any, _kwargs: Mapping[str, Any]) -> None:
            watch = held()
            if watch is not None and watch.wanted:
                watch.norm = gradient_norm(done)

        self._stop = weakref.finalize(self, optimizer.register_step_post_hook(measure).remove)

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None


def gradient_norm(optimizer: Optimizer) -> Tensor | None:
    """Returns the norm of the gradients of all parameters of an optimizer, or None if no parameter has one.

    All processes among which FSDP2 spreads the parameters must call this together.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return None
    dense = [each.coalesce().values() if each.is_sparse else each for each in gradients]
    return whole(torch.nn.utils.get_total_norm([each.detach() for each in dense]))


def _keeps_gradients(optimizer: Optimizer) -> bool:
    """Returns whether the optimizer leaves ``p.grad`` as it was: torch's fast paths of Nesterov momentum change it."""
    nesterov = any(group.get("nesterov") for group in optimizer.param_groups)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    fast = any(group.get("foreach") or group.get("fused") for group in optimizer.param_groups)
    return not (nesterov and (fast or any(p.device.type != "cpu" for p in parameters)))


def _number(value: Any) -> float | None:
    found = None if value is None else float(value)
    return found if found is not None and math.isfinite(found) else None
