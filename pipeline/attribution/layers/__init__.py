"""Layer rules: each one turns a module's inputs and output gradients into per-example gradients.

To support another layer type, add a file to this folder. The file holds a class that implements ``LayerRule`` (the
simplest way is to derive it from ``ModuleRule``) and is decorated with ``register(ModuleType)``. A rule is found by the
exact type of the module, because a subclass may compute something else. For types of libraries that aren't imported
here, ``register_look_alikes`` takes a function that knows such a module when it sees one.
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
    """The place of a parameter's numbers in a block's matrix ``[out, in]``.

    Attributes:
        parameter: the parameter's name in the module, or in the model.
        columns: the columns of the matrix that the piece fills: the first one, and one past the last one.
        rows: the range of the parameter's first dimension that belongs to the piece; None is the whole parameter.
        transposed: whether the parameter's first dimension is the matrix's second dimension.
    """

    parameter: str
    columns: tuple[int, int]
    rows: tuple[int, int] | None = None
    transposed: bool = False

    def read(self, parameter: Tensor) -> Tensor:
        """Returns the piece of ``parameter`` as columns of the matrix: ``[out, columns]``."""
        part = self.part(parameter)
        width = self.columns[1] - self.columns[0]
        return part.T if self.transposed else part.reshape(part.numel() // width, width)

    def write(self, matrix: Tensor, parameter: Tensor) -> Tensor:
        """Returns the piece's columns of ``matrix`` in the shape, dtype and device of ``parameter``'s part.

        This is the inverse of ``read``. It changes neither argument.
        """
        columns = matrix[:, slice(*self.columns)]
        return (columns.T if self.transposed else columns).reshape(self.part(parameter).shape).to(parameter)

    def part(self, parameter: Tensor) -> Tensor:
        """Returns a view of the part of ``parameter`` that ``rows`` selects."""
        return parameter if self.rows is None else parameter[slice(*self.rows)]


@dataclass(frozen=True)
class Block:
    """Trained parameters of a module that together form one matrix.

    Attributes:
        name: the block's name within the module. It is empty if the whole module is one block.
        shape: (out, in) of the matrix. A bias counts as one more input.
        pieces: the parameters in the matrix, the weight first. Their names are those in the module.
    """

    name: str
    shape: tuple[int, int]
    pieces: tuple[Piece, ...]


# Called with (block, its inputs, its output); returns the output that the forward pass continues with.
Record: TypeAlias = Callable[[Block, Tensor, Tensor], Tensor]


class LayerRule(Protocol):
    """The mathematics of one layer type.

    Attributes:
        kind: the name of the layer type.
        diagonal_input: whether only the diagonal of the input covariance A is kept. The eigenvectors of A are then
            the identity.
        diagonal_gradient: the same for the covariance S of the output gradients.
        takes_positions: whether ``gradients`` takes inputs with any number of dimensions between the batch and what
            the layer itself works on.
    """

    kind: str
    diagonal_input: bool
    diagonal_gradient: bool
    takes_positions: bool

    def supports(self, module: Any) -> bool:
        """Returns whether this rule is exact for the module with its present configuration."""

    def blocks(self, module: Any) -> list[Block]:
        """Returns the matrices of the module's trained parameters. No parameter is in two of them."""

    def gradients(
        self, module: Any, block: Block, inputs: Tensor, output_gradients: Tensor
    ) -> LayerGradients:
        """Returns the per-example gradients of one block.

        Args:
            module: the module that the block belongs to.
            block: one of ``blocks(module)``.
            inputs: the block's inputs; the batch is the first dimension.
            output_gradients: the gradients of the loss with respect to the block's output; the batch is the first
                dimension.
        """

    def watch(self, module: Any, record: Record) -> Callable[[], None]:
        """Makes every forward pass of the module call ``record`` for each of its blocks.

        Returns:
            A function that ends this.
        """


class ModuleRule(ABC):
    """A base class for rules of modules whose ``weight`` and ``bias`` are one block."""

    kind: str
    diagonal_input = False
    diagonal_gradient = False
    takes_positions = False
    transposed = False

    def supports(self, module: Any) -> bool:  # noqa: ARG002 - for subclasses
        return True

    @abstractmethod
    def weight_shape(self, module: Any) -> tuple[int, int]:
        """Returns (out, in) of the weight as a matrix, without the bias."""

    @abstractmethod
    def weight_gradients(
        self, module: Any, inputs: Tensor, output_gradients: Tensor, bias: bool
    ) -> LayerGradients:
        """Returns the per-example gradients, as ``LayerRule.gradients`` does.

        ``bias`` says whether a bias is trained. A trained bias counts as one more input that is always 1.
        """

    def blocks(self, module: Any) -> list[Block]:
        # A re-parametrised weight (weight_norm, …) is a computed tensor and no parameter of the module.
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
_LOOK_ALIKES: list[tuple[Callable[[nn.Module], bool], LayerRule]] = []


def register(*module_types: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Returns a class decorator that registers a rule for modules of exactly these types."""

    def add(rule: Rule) -> Rule:
        for module_type in module_types:
            _RULES[module_type] = rule()
        return rule

    return add


def register_look_alikes(recognises: Callable[[nn.Module], bool]) -> Callable[[Rule], Rule]:
    """Returns a class decorator that registers a rule for the modules that ``recognises`` returns True for.

    It is asked only about modules whose type has no rule. The answer must depend on the type and the shapes alone.
    """

    def add(rule: Rule) -> Rule:
        _LOOK_ALIKES.append((recognises, rule()))
        return rule

    return add


def find_rule(module: nn.Module) -> LayerRule | None:
    """Returns the rule that is exact for this module, or None if there is none."""
    rule = _RULES.get(type(module))
    if rule is None:
        rule = next((each for recognises, each in _LOOK_ALIKES if recognises(module)), None)
    return rule if rule is not None and rule.supports(module) else None


def trained(module: nn.Module, name: str) -> bool:
    """Returns whether the module has a parameter of this name that requires a gradient."""
    parameter = module._parameters.get(name)
    return parameter is not None and parameter.requires_grad


for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
