"""The parameters of a model that attribution covers, as layers of one matrix each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pipeline.attribution.layers import Block, LayerRule, Piece, find_rule
from pipeline.attribution.layers.attention import sequence_first_modules
from pipeline.attribution.model.tied_weights import tied_rules
from pipeline.attribution.options import WIDEST_OUTPUTS

# A caller warns if attribution covers a smaller share of the trained numbers.
WELL_COVERED = 0.9


@dataclass(frozen=True)
class LayerInfo:
    """A layer that attribution covers.

    Attributes:
        name: the name of the module in the model, followed by the name of the block if the module has several. If
            several modules share the parameters, it is the name of the first one.
        kind: the name of the layer rule.
        shape: (out, in) of the parameters as one matrix. A bias counts as one more input.
        parameters: the number of trained numbers.
        bias: whether a bias is trained.
        modules: the names of all modules that use these parameters.
        pieces: the places of the parameters in the matrix. Names are those of ``model.named_parameters()``.
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
        """The number of numbers in the two covariances."""
        return sum(size if one else size**2 for size, one in zip(self.shape, self.diagonal, strict=True))


@dataclass(frozen=True)
class Coverage:
    """The share of a model that attribution covers.

    Attributes:
        covered: the number of trained numbers that attribution covers.
        total: the number of all trained numbers.
        share: covered / total; 0 if nothing is trained.
        uncovered: the names of the trained parameters that aren't covered, or not wholly.
        types: the types of the modules that have these parameters.
        approximated: a sentence for each layer whose curvature is coarser because it has many outputs.
    """

    covered: int
    total: int
    share: float
    uncovered: list[str]
    types: list[str]
    approximated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """One block of one module that uses a layer.

    Attributes:
        name: the module's name in the model.
        module: the module.
        rule: the layer rule of the module.
        block: the block.
        batch: the dimension of inputs and outputs that is the batch.
        parameters: the parameters of the block's pieces.
    """

    name: str
    module: nn.Module
    rule: LayerRule
    block: Block
    batch: int
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class Layer:
    """A layer and all blocks that use it."""

    info: LayerInfo
    sites: tuple[Site, ...]


def covered_layers(model: nn.Module, widest_outputs: int = WIDEST_OUTPUTS) -> list[LayerInfo]:
    """Returns the layers that attribution covers, in the order of ``model.named_modules()``.

    Modules that share all their parameters count as one layer. Linear and Embedding modules that share only their
    weight, such as a model's embedding and output head, count as one layer too. Other modules that share some of their
    parameters are left out, because their gradients can't be told apart. So are layers whose weight isn't trained.

    Args:
        model: the model.
        widest_outputs: layers with more outputs keep the covariance of their output gradients as a diagonal.
    """
    return [_narrowed(layer.info, widest_outputs) for layer in find_layers(model)]


def _narrowed(layer: LayerInfo, widest_outputs: int) -> LayerInfo:
    wide = layer.shape[0] > widest_outputs
    return replace(layer, diagonal=(True, layer.diagonal[1])) if wide else layer


def coverage(model: nn.Module, widest_outputs: int = WIDEST_OUTPUTS) -> Coverage:
    """Returns the share of a model's trained numbers that attribution covers, and the parameters left out.

    The arguments are those of ``covered_layers``.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    left = {name: p.numel() for name, p in trained.items()}
    approximated = []
    for layer in find_layers(model):
        outputs, always = layer.info.shape[0], layer.info.diagonal[0]
        if outputs > widest_outputs and not always:
            approximated.append(
                f"{layer.info.name or 'the model'} has {outputs:,} outputs, more than {widest_outputs:,}: "
                "the curvature between its outputs is kept as a diagonal"
            )
        for piece in layer.info.pieces:
            left[piece.parameter] -= piece.part(trained[piece.parameter]).numel()
    uncovered = [name for name, count in left.items() if count]
    total = sum(p.numel() for p in trained.values())
    seen = total - sum(left.values())
    types = {type(model.get_submodule(name.rpartition(".")[0])).__name__ for name in uncovered}
    return Coverage(seen, total, seen / total if total else 0.0, uncovered, sorted(types), approximated)


def parameter_matrices(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns layer -> matrix ``[out, in]``, from tensors that are named and shaped like the model's parameters.

    The tensors may be an optimizer's state, for example.
    """
    return {
        layer.name: torch.cat([piece.read(parameters[piece.parameter]) for piece in layer.pieces], 1)
        for layer in covered_layers(model)
    }


def matrix_parameters(model: nn.Module, matrices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns parameter -> tensor in the parameter's shape and dtype, from layer -> matrix ``[out, in]``.

    This is the inverse of ``parameter_matrices``. It returns the parameters of the covered layers; a part of a
    parameter that no layer covers is 0.
    """
    named = {name: p.detach() for name, p in model.named_parameters()}
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for layer in covered_layers(model):
        for piece in layer.pieces:
            part = piece.write(matrices[layer.name], named[piece.parameter])
            parts.setdefault(piece.parameter, []).append((0 if piece.rows is None else piece.rows[0], part))
    return {name: _stacked(found, named[name]) for name, found in parts.items()}


def _stacked(parts: list[tuple[int, Tensor]], like: Tensor) -> Tensor:
    """Returns a tensor like ``like`` from parts (first row, rows), with zeros in the rows that no part has."""
    found: list[Tensor] = []
    last = 0
    for first, part in sorted(parts, key=lambda each: each[0]):
        found += [torch.zeros_like(like[last:first]), part]
        last = first + len(part)
    return torch.cat([part for part in (*found, torch.zeros_like(like[last:])) if len(part)])


def find_layers(model: nn.Module) -> list[Layer]:
    """Returns the covered layers, each with all blocks that use it, in the order of ``covered_layers``."""
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
    """Returns the type and the parameters of a module. Modules with equal ones may count as one layer."""
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
