"""What optimizers do to a gradient, read from torch's own: settings, second moments, and momentum's exact sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.attribution.errors import OptimizerError

_KINDS = {SGD: "sgd", Adam: "adam", AdamW: "adamw"}
# Settings that all parameters must share and that must stay as they are during a stage.
_SHARED = ("momentum", "dampening", "nesterov", "betas", "eps", "decoupled_weight_decay")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate and weight decay.

    Attributes:
        parameters: their names in the model; None means all that are trained.
        weight_decay: the optimizer's setting.
    """

    parameters: tuple[str, ...] | None
    weight_decay: float = 0.0


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimizer as attribution sees it.

    Attributes:
        kind: ``sgd``, ``adam`` or ``adamw``.
        groups: parameters that are in none are frozen.
        momentum: β of SGD, β₁ of Adam.
        dampening, nesterov: of SGD.
        beta2, eps: of Adam.
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
        """How often a gradient is applied in the end, after many steps: 1/(1 − β) without dampening."""
        if self.adaptive or not self.momentum:
            return 1.0
        return (1.0 - self.dampening) / (1.0 - self.momentum)


def read_settings(model: nn.Module, optimizer: Optimizer) -> OptimizerSettings:
    """The settings of ``optimizer``; parameters without ``requires_grad`` count as frozen.

    Raises:
        OptimizerError: the formulas for this optimizer, or a setting of it, aren't known here.
    """
    check_supported(optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        trained = [names[id(p)] for p in group["params"] if p.requires_grad and id(p) in names]
        groups.append(ParameterGroup(tuple(trained), float(group["weight_decay"])))
    if not any(group.parameters for group in groups):
        raise OptimizerError(
            "The optimizer trains no parameter of the model.", "Give the model's own optimizer."
        )
    first = optimizer.param_groups[0]
    if type(optimizer) is SGD:
        return OptimizerSettings(
            "sgd", tuple(groups), float(first["momentum"]), float(first["dampening"]), bool(first["nesterov"])
        )
    beta1, beta2 = (float(beta) for beta in first["betas"])
    decoupled = first.get("decoupled_weight_decay", type(optimizer) is AdamW)
    kind = "adamw" if decoupled else "adam"
    return OptimizerSettings(kind, tuple(groups), beta1, beta2=beta2, eps=float(first["eps"]))


def check_supported(optimizer: Optimizer) -> None:
    """Raises OptimizerError for an optimizer or a setting without a formula here."""
    if type(optimizer) not in _KINDS:
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
    """Raises OptimizerError unless the formulas for this optimizer are known here."""
    if kind not in _KINDS.values():
        raise OptimizerError(
            f"Attribution through {kind!r} isn't supported.", "Train with torch's SGD, Adam or AdamW."
        )


def constant_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What must not change during a stage, to compare; learning rates may."""
    keys = (*_SHARED, "weight_decay", "maximize", "amsgrad")
    return [{key: group[key] for key in keys if key in group} for group in optimizer.param_groups]


def second_moments(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Parameter name -> bias-corrected v̂ of Adam; parameters that had no gradient so far are left out."""
    found = {}
    for group in optimizer.param_groups:
        beta2 = float(group["betas"][1])
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state:
                found[id(parameter)] = state["exp_avg_sq"] / (1.0 - beta2 ** float(state["step"]))
    return {name: found[id(p)] for name, p in model.named_parameters() if id(p) in found}


class AppliedSums:
    """How much of each interval's gradients the optimizer has applied: Σ learning rate · share, exactly.

    A gradient of size 1 that enters the momentum buffer goes on acting at later steps; here it is followed with one
    buffer per interval. Summed over all intervals it is Σ η_k (1 − β^k)/(1 − β) for SGD, k counted from the
    optimizer's first step, and Σ η_k for Adam, whose averages are bias-corrected.

    Args:
        intervals: how many there will be, over all stages.
    """

    def __init__(self) -> None:
        self._buffers: list[float] = []
        self._sums: list[list[float]] = []
        self._count = 0

    def start(self, optimizer: Optimizer) -> None:
        """A new optimizer takes over; what the old one's buffers still held is lost."""
        self._buffers = [0.0] * len(self._buffers)
        steps = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
        used = any(s.get("momentum_buffer") is not None for s in optimizer.state.values())
        self._count = int(max(steps, default=float(used)))

    def add_interval(self, groups: int) -> None:
        """The gradients that follow belong to another interval, of a stage with so many parameter groups."""
        self._buffers.append(0.0)
        self._sums.append([0.0] * groups)

    def step(self, settings: OptimizerSettings, rates: Sequence[float]) -> None:
        """One optimizer step; ``rates`` are the groups' learning rates."""
        self._count += 1
        beta = settings.momentum
        if settings.adaptive:
            enters, correction = 1.0 - beta, 1.0 - beta**self._count
        else:
            # torch takes the first gradient whole.
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
        """``[interval][group]``."""
        return [list(each) for each in self._sums]

    def to_record(self) -> dict[str, Any]:
        """For JSON; the inverse of ``from_record``."""
        return {"buffers": self._buffers, "sums": self._sums, "count": self._count}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> AppliedSums:
        found = cls()
        found._buffers, found._sums, found._count = record["buffers"], record["sums"], record["count"]
        return found
