"""Which of a model's parameters attribution sees, as layers of one matrix each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.attribution.layers import Block, LayerRule, Piece, find_rule
from pipeline.attribution.layers.attention import sequence_first_modules
from pipeline.attribution.model.tied_weights import tied_rules

# Share of the trained numbers below which it is warned of what attribution doesn't see.
WELL_COVERED = 0.9


@dataclass(frozen=True)
class LayerInfo:
    """A layer that attribution covers.

    Attributes:
        name: the module's name in the model, and the block's where a module has several; the first one where several
            modules share the parameters.
        kind: the layer rule's name.
        shape: (out, in) of its weights as one matrix, the bias being one more input.
        parameters: how many numbers it trains.
        bias: whether it trains a bias.
        modules: names of all modules that use these parameters.
        pieces: how its parameters, named as in ``model.named_parameters()``, make up the matrix.
        diagonal: whether the covariances of (output gradients, inputs) are kept as their diagonals.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    parameters: int
    bias: bool
    modules: tuple[str, ...]
    pieces: tuple[Piece, ...] = ()
    diagonal: tuple[bool, bool] = (False, False)

    @property
    def factor_numbers(self) -> int:
        """The numbers in its two covariances."""
        return sum(size if one else size**2 for size, one in zip(self.shape, self.diagonal, strict=True))


@dataclass(frozen=True)
class Coverage:
    """How much of a model attribution sees: numbers trained, the names of parameters left out, and the types of the
    modules that these are in."""

    covered: int
    total: int
    share: float
    uncovered: list[str]
    types: list[str]


@dataclass(frozen=True)
class Site:
    """A place in the model that uses a layer: one block of one module.

    Attributes:
        name, module: the module.
        rule: what makes gradients of the block.
        block: its parameters' places.
        batch: the dimension of inputs and outputs that counts examples.
        parameters: of the block's pieces.
    """

    name: str
    module: nn.Module
    rule: LayerRule
    block: Block
    batch: int
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Layer:
    """A layer and all places that use it."""

    info: LayerInfo
    sites: tuple[Site, ...]


def covered_layers(model: nn.Module) -> list[LayerInfo]:
    """The layers that attribution covers, in the order of ``model.named_modules()``.

    Modules that share all their parameters count as one layer. So do Linear and Embedding modules that share their
    weight alone, such as a model's embedding and its output head. Other modules that share some parameters can't be
    told apart and are left out. Layers whose weight isn't trained are left out too.
    """
    return [layer.info for layer in find_layers(model)]


def coverage(model: nn.Module) -> Coverage:
    """The share of a model's trained numbers that attribution covers, and the parameters that it doesn't (wholly)."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    left = {name: p.numel() for name, p in trained.items()}
    for layer in covered_layers(model):
        for piece in layer.pieces:
            left[piece.parameter] -= piece.part(trained[piece.parameter]).numel()
    uncovered = [name for name, count in left.items() if count]
    total = sum(p.numel() for p in trained.values())
    seen = total - sum(left.values())
    types = {type(model.get_submodule(name.rpartition(".")[0])).__name__ for name in uncovered}
    return Coverage(seen, total, seen / total if total else 0.0, uncovered, sorted(types))


def parameter_matrices(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named and shaped like the model's parameters (an optimizer's state, say) as layer matrices
    ``[out, in]``."""
    return {
        layer.name: torch.cat([piece.read(parameters[piece.parameter]) for piece in layer.pieces], 1)
        for layer in covered_layers(model)
    }


def matrix_parameters(model: nn.Module, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer matrices ``[out, in]`` as tensors named, shaped and typed like the parameters of the covered layers: the
    inverse of ``parameter_matrices``. What no layer covers of a parameter is 0."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for layer in covered_layers(model):
        for piece in layer.pieces:
            part = piece.write(matrices[layer.name], named[piece.parameter])
            parts.setdefault(piece.parameter, []).append((0 if piece.rows is None else piece.rows[0], part))
    return {name: _stacked(found, named[name]) for name, found in parts.items()}


def _stacked(parts: list[tuple[int, Tensor]], like: Tensor) -> Tensor:
    """(first row, rows) below one another, with zeros where there is none."""
    found: list[Tensor] = []
    last = 0
    for first, part in sorted(parts, key=lambda each: each[0]):
        found += [torch.zeros_like(like[last:first]), part]
        last = first + len(part)
    return torch.cat([part for part in (*found, torch.zeros_like(like[last:])) if len(part)])


def find_layers(model: nn.Module) -> list[Layer]:
    """``covered_layers`` with the places that use each."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(module)
    shared = {key for key, modules in owners.items() if len({_owner(module) for module in modules}) > 1}
    groups: dict[tuple[object, ...], list[Site]] = {}
    for site in _sites(model, tied_rules(owners) if shared else {}):
        if site.rule.kind == "tied":
            groups.setdefault(("tied", id(site.parameters[0])), []).append(site)
        elif not any(id(parameter) in shared for parameter in site.parameters):
            pieces = zip(site.parameters, site.block.pieces, strict=True)
            groups.setdefault(tuple((id(p), piece.rows) for p, piece in pieces), []).append(site)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [Layer(_info(sites, names), tuple(sites)) for sites in groups.values()]


def _owner(module: nn.Module) -> tuple[object, ...]:
    """What modules have in common that may share parameters as one layer: their type and all they have."""
    return type(module), *(id(p) for p in module._parameters.values() if p is not None)


def _sites(model: nn.Module, tied: Mapping[nn.Module, LayerRule]) -> Iterator[Site]:
    sequence_first = sequence_first_modules(model)
    for name, module in model.named_modules():
        rule = tied.get(module) or find_rule(module)
        if rule is not None:
            for block in rule.blocks(module):
                parameters = tuple(_parameter(module, piece.parameter) for piece in block.pieces)
                yield Site(name, module, rule, block, int(module in sequence_first), parameters)


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    found = module._parameters.get(name)
    return module.get_parameter(name) if found is None else found


def _info(sites: list[Site], names: Mapping[int, str]) -> LayerInfo:
    first = sites[0]
    pieces: dict[tuple[int, int], Piece] = {}
    sizes: dict[tuple[int, int], int] = {}
    for site in sites:
        for parameter, piece in zip(site.parameters, site.block.pieces, strict=True):
            if piece.columns not in pieces:
                pieces[piece.columns] = replace(piece, parameter=names[id(parameter)])
                sizes[piece.columns] = piece.part(parameter).numel()
    ordered = sorted(pieces)
    return LayerInfo(
        ".".join(part for part in (first.name, first.block.name) if part),
        first.rule.kind,
        first.block.shape,
        sum(sizes.values()),
        len(pieces) > 1,
        tuple(site.name for site in sites),
        tuple(pieces[columns] for columns in ordered),
        (first.rule.diagonal_gradient, first.rule.diagonal_input),
    )
