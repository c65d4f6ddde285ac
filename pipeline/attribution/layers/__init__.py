"""Layer rules: how a module's inputs and output gradients become per-example gradients.

To support another layer type, add a file here with a class that follows ``LayerRule`` and is decorated with
``register(ModuleType)``. Rules are found by a module's exact type: a subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from pipeline.attribution.gradients import LayerGradients


class LayerRule(Protocol):
    """The mathematics of one layer type. ``bias`` says whether the module has a bias that is trained."""

    kind: str

    def supports(self, module: Any) -> bool:
        """Whether this rule is exact for the module as it is configured."""

    def matrix_shape(self, module: Any, bias: bool) -> tuple[int, int]:
        """(out, in) of an example's gradient as one matrix; a bias adds one to in."""

    def gradients(self, module: Any, inputs: Tensor, output_gradients: Tensor, bias: bool) -> LayerGradients:
        """Per-example gradients from the module's input and the gradient at its output; batch first."""


Rule = TypeVar("Rule", bound=type)
_RULES: dict[type[nn.Module], LayerRule] = {}


def register(module_type: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Class decorator: this rule is for modules of exactly ``module_type``."""

    def add(rule: Rule) -> Rule:
        _RULES[module_type] = rule()
        return rule

    return add


def find_rule(module: nn.Module) -> LayerRule | None:
    """The rule that is exact for this module, or None."""
    rule = _RULES.get(type(module))
    # Re-parametrised weights (weight_norm, …) are computed tensors and not parameters.
    if rule is None or "weight" not in module._parameters or not rule.supports(module):
        return None
    return rule


for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
