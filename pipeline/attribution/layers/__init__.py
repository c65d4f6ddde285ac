"""Layer rules: how a module's inputs and output gradients become per-example gradients.

To support another layer type, add a file here with a class that follows ``LayerRule`` (most simply a ``ModuleRule``)
and is decorated with ``register(ModuleType)``. Rules are found by a module's exact type: a subclass may compute
something else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, TypeAlias, TypeVar

from torch import Tensor, nn

from pipeline.attribution.gradients.layer_gradients import LayerGradients


@dataclass(frozen=True)
class Piece:
    """Where a parameter's numbers stand in a matrix ``[out, in]``.

    Attributes:
        parameter: its name in the module, or in the model.
        columns: the matrix's columns, first and one past the last.
        rows: the part of the parameter, along its first dimension, that is meant; None is all of it.
        transposed: whether the parameter's first dimension is the matrix's second.
    """

    parameter: str
    columns: tuple[int, int]
    rows: tuple[int, int] | None = None
    transposed: bool = False

    def read(self, parameter: Tensor) -> Tensor:
        """The parameter's numbers as columns of the matrix: ``[out, columns]``."""
        part = self.part(parameter)
        width = self.columns[1] - self.columns[0]
        return part.T if self.transposed else part.reshape(part.numel() // width, width)

    def write(self, matrix: Tensor, parameter: Tensor) -> Tensor:
        """The columns of ``matrix`` as the part that they are of ``parameter``: the inverse of ``read``."""
        columns = matrix[:, slice(*self.columns)]
        return (columns.T if self.transposed else columns).reshape(self.part(parameter).shape).to(parameter)

    def part(self, parameter: Tensor) -> Tensor:
        return parameter if self.rows is None else parameter[slice(*self.rows)]


@dataclass(frozen=True)
class Block:
    """Trained parameters of a module that form one matrix.

    Attributes:
        name: within the module; empty where the module is one block.
        shape: (out, in) of the matrix; a bias is one more input.
        pieces: what it is made of, weight first; parameters are named as in the module.
    """

    name: str
    shape: tuple[int, int]
    pieces: tuple[Piece, ...]


# (block, its inputs, its output) to the output that the forward pass goes on with.
Record: TypeAlias = Callable[[Block, Tensor, Tensor], Tensor]


class LayerRule(Protocol):
    """The mathematics of one layer type.

    ``diagonal_input`` and ``diagonal_gradient`` say whether that covariance is kept as its diagonal alone, its
    eigenvectors being the identity.
    """

    kind: str
    diagonal_input: bool
    diagonal_gradient: bool

    def supports(self, module: Any) -> bool:
        """Whether this rule is exact for the module as it is configured."""

    def blocks(self, module: Any) -> list[Block]:
        """The matrices of parameters that are trained; every parameter in one at most."""

    def gradients(
        self, module: Any, block: Block, inputs: Tensor, output_gradients: Tensor
    ) -> LayerGradients:
        """Per-example gradients from a block's inputs and the gradient at its output; batch first."""

    def watch(self, module: Any, record: Record) -> Callable[[], None]:
        """Calls ``record`` for every block in every forward pass until the function returned is called."""


class ModuleRule(ABC):
    """A module that is one block of its ``weight`` and ``bias``."""

    kind: str
    diagonal_input = False
    diagonal_gradient = False
    transposed = False

    def supports(self, module: Any) -> bool:  # noqa: ARG002 - for subclasses
        return True

    @abstractmethod
    def weight_shape(self, module: Any) -> tuple[int, int]:
        """(out, in) of the weight as a matrix."""

    @abstractmethod
    def weight_gradients(
        self, module: Any, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> LayerGradients:
        """As ``LayerRule.gradients``; ``bias`` says whether a bias is trained, which is one more input."""

    def blocks(self, module: Any) -> list[Block]:
        # Re-parametrised weights (weight_norm, …) are computed tensors and not parameters.
        if not trained(module, "weight"):
            return []
        size_out, size_in = self.weight_shape(module)
        pieces = [Piece("weight", (0, size_in), transposed=self.transposed)]
        if trained(module, "bias"):
            pieces.append(Piece("bias", (size_in, size_in + 1)))
        return [Block("", (size_out, pieces[-1].columns[1]), tuple(pieces))]

    def gradients(
        self, module: Any, block: Block, inputs: Tensor, output_gradients: Tensor
    ) -> LayerGradients:
        return self.weight_gradients(module, inputs, output_gradients, len(block.pieces) > 1)

    def watch(self, module: Any, record: Record) -> Callable[[], None]:
        (block,) = self.blocks(module)

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            return record(block, args[0] if args else kwargs["input"], output)

        handle = module.register_forward_hook(hook, with_kwargs=True)
        remove: Callable[[], None] = handle.remove
        return remove


Rule = TypeVar("Rule", bound=type)
_RULES: dict[type[nn.Module], LayerRule] = {}


def register(*module_types: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Class decorator: this rule is for modules of exactly these types."""

    def add(rule: Rule) -> Rule:
        for module_type in module_types:
            _RULES[module_type] = rule()
        return rule

    return add


def find_rule(module: nn.Module) -> LayerRule | None:
    """The rule that is exact for this module, or None."""
    rule = _RULES.get(type(module))
    return rule if rule is not None and rule.supports(module) else None


def trained(module: nn.Module, name: str) -> bool:
    """Whether the module has a parameter of that name and it requires a gradient."""
    parameter = module._parameters.get(name)
    return parameter is not None and parameter.requires_grad


for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
