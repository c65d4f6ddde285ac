"""The adjoints of steps of torch's optimizers.

Parameters are one vector here (``vectors.ParameterVector``). The adjoint of a step is its transposed derivative. The
input is the derivative of the query loss with respect to the weights and optimizer state after the step. The outputs
are its derivatives with respect to the weights and optimizer state before the step, and with respect to the loss
gradient that entered the step.
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
    """An optimizer, with the adjoint of its step.

    Attributes:
        optimizer: the class of the optimizer.
        slots: the names of the tensors that the optimizer keeps for every weight.
        linear: whether the step is linear in slots and gradient. The adjoint then doesn't depend on them.
        adjoint: (step of one parameter group, the group's options, adjoint after the step) -> (adjoint of the gradient
            that entered, adjoint before the step). The second one treats the gradient that entered as constant.
    """

    optimizer: type[Optimizer]
    slots: tuple[str, ...]
    linear: bool
    adjoint: Callable[[StepPoint, Mapping[str, Any], Adjoint], tuple[Tensor, Adjoint]]


@dataclass(frozen=True)
class StepPoint:
    """The values at which a step was taken.

    Attributes:
        weights: ``[parameters]``, the weights before the step.
        slots: name -> ``[parameters]``, the optimizer's slots before the step.
        gradient: ``[parameters]``, the loss gradient that enters the step.
        rates: the learning rate of each parameter group.
        number: the number of the step in the optimizer's own count, from 1.
    """

    weights: Tensor
    slots: Slots
    gradient: Tensor
    rates: tuple[float, ...]
    number: int


@dataclass(frozen=True)
class UpdateGroup:
    """A parameter group.

    Attributes:
        place: the range of the group's parameters in the vector.
        options: the options of the group, without the learning rate.
    """

    place: slice
    options: Mapping[str, Any]


def vector_groups(vector: ParameterVector, records: list[dict[str, Any]]) -> list[UpdateGroup]:
    """Returns the parameter groups of ``group_records``, with their places in a vector that was made from them."""
    return [
        UpdateGroup(place, record["options"]) for place, record in zip(vector.places, records, strict=True)
    ]


@dataclass(frozen=True)
class Adjoint:
    """The derivative of the query loss with respect to weights and slots at one point of training.

    Attributes:
        weights: ``[parameters]``.
        slots: name -> ``[parameters]``.
    """

    weights: Tensor
    slots: Slots


def _sgd(point: StepPoint, options: Mapping[str, Any], after: Adjoint) -> tuple[Tensor, Adjoint]:
    """The adjoint of a step of ``torch.optim.SGD`` without dampening.

    The step is b ← β b + g + wd·w and w ← w − η b, or w ← w − η (g + wd·w + β b) with Nesterov momentum.
    """
    (rate,), momentum, buffer = point.rates, options["momentum"], after.slots["momentum_buffer"]
    nesterov = bool(options["nesterov"])
    moved = torch.add(buffer, after.weights, alpha=-rate * (momentum if nesterov else 1.0))
    entered = torch.add(moved, after.weights, alpha=-rate) if nesterov else moved
    weights = torch.add(after.weights, entered, alpha=options["weight_decay"])
    return entered, Adjoint(weights, {"momentum_buffer": momentum * moved})


def _adam(point: StepPoint, options: Mapping[str, Any], after: Adjoint) -> tuple[Tensor, Adjoint]:
    """The adjoint of a step of ``torch.optim.Adam`` or ``AdamW`` without amsgrad."""
    (rate,), (first, second), decay = point.rates, options["betas"], options["weight_decay"]
    decoupled = options.get("decoupled_weight_decay", False)
    gradient = point.gradient if decoupled else point.gradient + decay * point.weights
    mean = (first * point.slots["exp_avg"] + (1 - first) * gradient) / (1 - first**point.number)
    root = (second * point.slots["exp_avg_sq"] + (1 - second) * gradient.square()).sqrt()
    correction = (1 - second**point.number) ** 0.5
    inverse = 1 / (root / correction + options["eps"])
    step = -rate * after.weights * inverse
    to_mean = after.slots["exp_avg"] + step / (1 - first**point.number)
    # The derivative of a root at 0 is infinite. For a weight that never had a gradient, 0 is used in its place.
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
    """Returns the rule of the optimizer class called ``optimizer``.

    Raises:
        OptimizerError: there is no rule for this class.
    """
    if optimizer not in _RULES:
        raise OptimizerError(
            f"Training with {optimizer!r} can't be unrolled.", f"Use one of: {', '.join(_RULES)}."
        )
    return _RULES[optimizer]


def check_unrollable(optimizer: Optimizer) -> UpdateRule:
    """Returns the rule of an optimizer.

    Raises:
        OptimizerError: there is no rule for its class, or it has an option that the rules don't cover.
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
    """Returns ``{"options", "parameters"}`` of each parameter group, as plain values for JSON.

    The options are those without the learning rate. The parameters are the names of the group's trained parameters.

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
    """Checks a step against the facts that a recorder was given before training.

    Args:
        step: the number of the step, from 1.
        steps: the number of steps that training was announced to take.
        groups: the present ``group_records``.
        announced: ``group_records`` from before training.

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
    rule: UpdateRule, groups: list[UpdateGroup], point: StepPoint, after: Adjoint
) -> tuple[Tensor, Adjoint]:
    """Computes the adjoint of one step of all parameter groups.

    Args:
        rule: the rule of the optimizer.
        groups: the parameter groups.
        point: the values at which the step was taken.
        after: the adjoint after the step.

    Returns:
        (adjoint of the gradient that entered ``[parameters]``, adjoint before the step). The second one treats the
        gradient that entered as constant.
    """
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
