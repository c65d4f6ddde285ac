"""What one step of torch's optimizers does to derivatives, backwards.

Parameters are one vector here (``vectors.ParameterVector``). ``adjoint`` is the transposed derivative of a step: what
a change of the weights and of the optimizer's state after it is worth in terms of those before it, and of the
gradient that entered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.attribution.errors import AttributionError, OptimizerError
from pipeline.attribution.unrolling.vectors import ParameterVector

Slots = dict[str, Tensor]


@dataclass(frozen=True)
class UpdateRule:
    """An optimizer whose steps can be followed backwards.

    Attributes:
        optimizer: its class.
        slots: what it keeps for every weight.
        linear: whether the step is linear in slots and gradient, so that its adjoint doesn't depend on them.
        adjoint: (step of one parameter group, its options, adjoint after it) -> (adjoint of the gradient that
            entered, adjoint before the step, that gradient held fixed).
    """

    optimizer: type[Optimizer]
    slots: tuple[str, ...]
    linear: bool
    adjoint: Callable[[StepPoint, Mapping[str, Any], Adjoint], tuple[Tensor, Adjoint]]


@dataclass(frozen=True)
class StepPoint:
    """A step as it was taken.

    Attributes:
        weights, gradient: ``[parameters]`` before the step; slots: likewise by name.
        rates: each parameter group's learning rate.
        number: of the step in the optimizer's own count, from 1.
    """

    weights: Tensor
    slots: Slots
    gradient: Tensor
    rates: tuple[float, ...]
    number: int


@dataclass(frozen=True)
class Group:
    """A parameter group: its place in the vector and its options."""

    place: slice
    options: Mapping[str, Any]


def vector_groups(vector: ParameterVector, records: list[dict[str, Any]]) -> list[Group]:
    """The groups of ``group_records`` in a vector that was made of them."""
    return [Group(place, record["options"]) for place, record in zip(vector.places, records, strict=True)]


@dataclass(frozen=True)
class Adjoint:
    """∂(query loss)/∂(weights, slots) at one point of training, vectors ``[parameters]``."""

    weights: Tensor
    slots: Slots


def _sgd(point: StepPoint, options: Mapping[str, Any], after: Adjoint) -> tuple[Tensor, Adjoint]:
    """``torch.optim.SGD`` without dampening: b ← β b + g + wd w, w ← w − η b, or − η (g + wd w + β b) if nesterov."""
    (rate,), momentum, buffer = point.rates, options["momentum"], after.slots["momentum_buffer"]
    nesterov = bool(options["nesterov"])
    moved = torch.add(buffer, after.weights, alpha=-rate * (momentum if nesterov else 1.0))
    entered = torch.add(moved, after.weights, alpha=-rate) if nesterov else moved
    weights = torch.add(after.weights, entered, alpha=options["weight_decay"])
    return entered, Adjoint(weights, {"momentum_buffer": momentum * moved})


def _adam(point: StepPoint, options: Mapping[str, Any], after: Adjoint) -> tuple[Tensor, Adjoint]:
    """``torch.optim.Adam`` and ``AdamW``, without amsgrad."""
    (rate,), (first, second), decay = point.rates, options["betas"], options["weight_decay"]
    decoupled = options.get("decoupled_weight_decay", False)
    gradient = point.gradient if decoupled else point.gradient + decay * point.weights
    mean = (first * point.slots["exp_avg"] + (1 - first) * gradient) / (1 - first**point.number)
    root = (second * point.slots["exp_avg_sq"] + (1 - second) * gradient.square()).sqrt()
    correction = (1 - second**point.number) ** 0.5
    inverse = 1 / (root / correction + options["eps"])
    step = -rate * after.weights * inverse
    to_mean = after.slots["exp_avg"] + step / (1 - first**point.number)
    # A weight that never had a gradient has the derivative 0 here, and not that of a root at 0.
    slope = torch.where(root > 0, mean * inverse / (2 * correction * root), 0.0)
    to_square = after.slots["exp_avg_sq"] - step * slope
    entered = (1 - first) * to_mean + 2 * (1 - second) * gradient * to_square
    weights = after.weights * (1 - rate * decay) if decoupled else after.weights + decay * entered
    return entered, Adjoint(weights, {"exp_avg": first * to_mean, "exp_avg_sq": second * to_square})


_RULES = {
    "SGD": UpdateRule(SGD, ("momentum_buffer",), True, _sgd),
    "Adam": UpdateRule(Adam, ("exp_avg", "exp_avg_sq"), False, _adam),
    "AdamW": UpdateRule(AdamW, ("exp_avg", "exp_avg_sq"), False, _adam),
}


def update_rule(optimizer: str) -> UpdateRule:
    """The rule of the optimizer class called ``optimizer``.

    Raises:
        OptimizerError: there is none.
    """
    if optimizer not in _RULES:
        raise OptimizerError(
            f"Training with {optimizer!r} can't be unrolled.", f"Use one of: {', '.join(_RULES)}."
        )
    return _RULES[optimizer]


def check_unrollable(optimizer: Optimizer) -> UpdateRule:
    """The optimizer's rule.

    Raises:
        OptimizerError: it is of another class, or set to something that the rules leave out.
    """
    rule = update_rule(type(optimizer).__name__)
    for group in optimizer.param_groups:
        for option in ("dampening", "maximize", "amsgrad"):
            if group.get(option):
                raise OptimizerError(
                    f"Training with {option}={group[option]!r} can't be unrolled.",
                    f"Leave {option!r} at its default.",
                )
    return rule


def group_records(model: nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    """Each parameter group's options but the learning rate, and its trained parameters' names; plain JSON.

    Raises:
        OptimizerError: a parameter isn't the model's, or an option is no plain value.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        options = {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
        unknown = any(id(p) not in names for p in group["params"])
        if unknown or any(not isinstance(v, int | float | tuple | None) for v in options.values()):
            raise OptimizerError(
                "The optimizer trains parameters that aren't the model's, or has an option that is a tensor.",
                "Give it the model's parameters and plain numbers.",
            )
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        trained = [names[id(p)] for p in group["params"] if p.requires_grad]
        groups.append({"options": plain, "parameters": trained})
    return groups


def check_step(step: int, steps: int, groups: list[dict[str, Any]], announced: list[dict[str, Any]]) -> None:
    """Whether a step, counted from 1, is one that the recording of ``steps`` steps was announced for.

    Args:
        groups, announced: ``group_records`` of now and of the beginning.

    Raises:
        AttributionError: training takes more steps than announced.
        OptimizerError: an option other than the learning rate changed.
    """
    if step > steps:
        raise AttributionError(
            f"Training goes on after the {steps} steps announced.", "Give the recorder the right `steps`."
        )
    if groups != announced:
        raise OptimizerError(
            "An option of the optimizer changed during training.",
            "Change learning rates alone; OneCycleLR changes momentum unless cycle_momentum=False.",
        )


def adjoint(
    rule: UpdateRule, groups: list[Group], point: StepPoint, after: Adjoint
) -> tuple[Tensor, Adjoint]:
    """(the adjoint of the gradient that entered, the adjoint before the step, that gradient held fixed)."""
    parts = [
        rule.adjoint(
            StepPoint(
                point.weights[group.place],
                _at(point.slots, group.place),
                point.gradient[group.place],
                (rate,),
                point.number,
            ),
            group.options,
            Adjoint(after.weights[group.place], _at(after.slots, group.place)),
        )
        for group, rate in zip(groups, point.rates, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    entered, early = zip(*parts, strict=True)
    slots = {name: torch.cat([each.slots[name] for each in early]) for name in rule.slots}
    return torch.cat(entered), Adjoint(torch.cat([each.weights for each in early]), slots)


def _at(slots: Slots, place: slice) -> Slots:
    return {name: value[place] for name, value in slots.items()}
