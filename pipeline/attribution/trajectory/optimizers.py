"""The facts about torch's optimizers that attribution uses: settings, second moments, and effective learning rates."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.attribution.errors import OptimizerError
from pipeline.attribution.trajectory.wrapped_models import plain_name

_KINDS: dict[type[Optimizer], str] = {SGD: "sgd", Adam: "adam", AdamW: "adamw"}
# Settings that must be the same for all parameter groups and must not change during a stage.
_SHARED = ("momentum", "dampening", "nesterov", "betas", "eps", "decoupled_weight_decay")
# Settings that a schedule may change during a stage, beside the learning rate.
_CHANGING = ("momentum", "betas")


@dataclass(frozen=True)
class ParameterGroup:
    """A parameter group of an optimizer, with one learning rate and one weight decay.

    Attributes:
        parameters: the names of the parameters in the model; None means all trained parameters.
        weight_decay: the group's ``weight_decay``.
    """

    parameters: tuple[str, ...] | None
    weight_decay: float = 0.0


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of an optimizer.

    Attributes:
        kind: ``sgd``, ``adam`` or ``adamw``.
        groups: the parameter groups. A parameter that is in no group is frozen.
        momentum: SGD's β, or Adam's β₁.
        dampening: SGD's dampening.
        nesterov: whether SGD uses Nesterov momentum.
        beta2: Adam's β₂.
        eps: Adam's ε.
    """

    kind: str = "sgd"
    groups: tuple[ParameterGroup, ...] = (ParameterGroup(None),)
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    beta2: float = 0.0
    eps: float = 0.0

    @property
    def adaptive(self) -> bool:
        return self.kind != "sgd"

    @property
    def steady_factor(self) -> float:
        """The factor by which momentum multiplies the learning rate after many steps: 1/(1 − β) without dampening."""
        if self.adaptive or not self.momentum:
            return 1.0
        return (1.0 - self.dampening) / (1.0 - self.momentum)


def read_settings(model: nn.Module, optimizer: Optimizer) -> OptimizerSettings:
    """Returns the settings of a torch optimizer. Parameters without ``requires_grad`` count as frozen.

    Raises:
        OptimizerError: the formulas of this library don't cover the optimizer or one of its settings, or it trains no
            parameter of the model.
    """
    _check_supported(optimizer)
    names = {id(parameter): plain_name(name) for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        trained = [names[id(p)] for p in group["params"] if p.requires_grad and id(p) in names]
        groups.append(ParameterGroup(tuple(trained), float(group["weight_decay"])))
    if not any(group.parameters for group in groups):
        raise OptimizerError(
            "The optimizer trains no parameter of the model.", "Give the model's own optimizer."
        )
    first = optimizer.param_groups[0]
    if isinstance(optimizer, SGD):
        return OptimizerSettings(
            "sgd", tuple(groups), float(first["momentum"]), float(first["dampening"]), bool(first["nesterov"])
        )
    beta1, beta2 = (float(beta) for beta in first["betas"])
    decoupled = first.get("decoupled_weight_decay", isinstance(optimizer, AdamW))
    kind = "adamw" if decoupled else "adam"
    return OptimizerSettings(kind, tuple(groups), beta1, beta2=beta2, eps=float(first["eps"]))


def _check_supported(optimizer: Optimizer) -> None:
    """Checks that the formulas of this library cover an optimizer and its settings.

    Raises:
        OptimizerError: the formulas don't cover it.
    """
    step = inspect.unwrap(
        type(optimizer).step
    )  # torch wraps it for profiles, in the class that is used first
    if all(inspect.unwrap(kind.step) is not step for kind in _KINDS):
        check_kind(type(optimizer).__name__)
    groups = optimizer.param_groups
    for key in _SHARED:
        if any(group.get(key) != groups[0].get(key) for group in groups):
            raise OptimizerError(f"Parameter groups differ in {key!r}.", "Use the same for all parameters.")
    if any(group["maximize"] for group in groups):
        raise OptimizerError("The optimizer maximises.", "Minimise a loss.")
    if any(group.get("amsgrad") for group in groups):
        raise OptimizerError("The optimizer uses amsgrad, which has no formula here.", "Set amsgrad=False.")


def check_kind(kind: str) -> None:
    """Checks that the formulas of this library cover a kind of optimizer.

    Raises:
        OptimizerError: the formulas don't cover it.
    """
    if kind not in _KINDS.values():
        raise OptimizerError(
            f"Attribution through {kind!r} isn't supported.", "Train with torch's SGD, Adam or AdamW."
        )


def unwrapped_optimizer(optimizer: Optimizer) -> Optimizer:
    """Returns torch's own optimizer inside a wrapper that holds it as ``optimizer``, as Accelerate's does."""
    inner = getattr(optimizer, "optimizer", None)
    return unwrapped_optimizer(inner) if isinstance(inner, Optimizer) else optimizer


def present_momentum(optimizer: Optimizer) -> float:
    """Returns SGD's β or Adam's β₁ of the step that was done last."""
    first = optimizer.param_groups[0]
    return float(first["betas"][0] if "betas" in first else first["momentum"])


def constant_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the settings of each group that must not change during a stage.

    Learning rates may change, and momentum and β₁ too.
    """
    keys = (*(key for key in _SHARED if key not in _CHANGING), "weight_decay", "maximize", "amsgrad")
    found = [{key: group[key] for key in keys if key in group} for group in optimizer.param_groups]
    for entry, group in zip(found, optimizer.param_groups, strict=True):
        entry |= {"beta2": group["betas"][1]} if "betas" in group else {}
    return found


def second_moments(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns parameter -> Adam's bias-corrected v̂. Parameters that have had no gradient yet are left out."""
    found = {}
    for group in optimizer.param_groups:
        beta2 = float(group["betas"][1])
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                found[id(parameter)] = state["exp_avg_sq"] / (1.0 - beta2 ** float(state["step"]))
    return {plain_name(name): found[id(p)] for name, p in model.named_parameters() if id(p) in found}


class AppliedSums:
    """The sums of effective learning rates, exactly, by the interval in which a gradient entered.

    An interval is the time between two checkpoints. A gradient that enters the momentum buffer is applied at later
    steps too, perhaps in later intervals. The class follows a gradient of size 1 per step through one buffer per
    interval, and sums learning rate · applied share. Over all intervals, the sum is Σ η_k (1 − β^k)/(1 − β) for SGD
    without dampening and Nesterov momentum, where k counts the optimizer's steps from 1. For Adam, whose averages are
    bias-corrected, it is Σ η_k.
    """

    def __init__(self) -> None:
        self._buffers: list[float] = []
        self._sums: list[list[float]] = []
        self._count = 0

    def start(self, optimizer: Optimizer) -> None:
        """Begins with another optimizer. Gradients in the buffers of the optimizer before aren't applied any more."""
        self._buffers = [0.0] * len(self._buffers)
        steps = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
        used = any(s.get("momentum_buffer") is not None for s in optimizer.state.values())
        self._count = int(max(steps, default=float(used)))

    def add_interval(self, groups: int) -> None:
        """Begins a new interval for the gradients that follow.

        Args:
            groups: the number of parameter groups of the stage.
        """
        self._buffers.append(0.0)
        self._sums.append([0.0] * groups)

    def drop_interval(self) -> None:
        """Forgets the interval that was begun last, in which there was no step."""
        self._buffers.pop()
        self._sums.pop()

    def step(
        self, settings: OptimizerSettings, rates: Sequence[float], momentum: float | None = None
    ) -> None:
        """Notes one optimizer step.

        Args:
            settings: the settings of the optimizer.
            rates: the learning rate of each parameter group.
            momentum: SGD's β or Adam's β₁ in this step; None takes that of ``settings``.
        """
        self._count += 1
        beta = settings.momentum if momentum is None else momentum
        if settings.adaptive:
            enters, correction = 1.0 - beta, 1.0 - beta**self._count
        else:
            # torch applies no dampening to the first gradient.
            enters = 1.0 if self._count == 1 or not beta else 1.0 - settings.dampening
            correction = 1.0
        for place in range(len(self._buffers)):
            new = 1.0 if place == len(self._buffers) - 1 else 0.0
            self._buffers[place] = beta * self._buffers[place] + enters * new
            applied = new + beta * self._buffers[place] if settings.nesterov else self._buffers[place]
            sums = self._sums[place]
            if applied and len(sums) == len(rates):
                for group, rate in enumerate(rates):
                    sums[group] += rate * applied / correction

    def sums(self) -> list[list[float]]:
        """Returns the sums as ``[interval][group]``."""
        return [list(each) for each in self._sums]

    def to_record(self) -> dict[str, Any]:
        """Returns the state as a dictionary for JSON."""
        return {"buffers": self._buffers, "sums": self._sums, "count": self._count}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> AppliedSums:
        """Returns the sums: the inverse of ``to_record``."""
        found = cls()
        found._buffers, found._sums, found._count = record["buffers"], record["sums"], record["count"]
        return found
