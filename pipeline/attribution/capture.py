"""Reads layer inputs and output gradients from a model's forward and backward pass, without changing the
model.

Weights are frozen meanwhile, so the backward pass forms no weight gradients; the model is in evaluation mode
(dropout off, BatchNorm with its running statistics). Everything is put back on leaving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients import LayerGradients
from pipeline.attribution.layers import LayerRule, find_rule
from pipeline.attribution.precision import passes

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class LayerInfo:
    """A layer that attribution covers.

    Attributes:
        name: the module's name in the model; the first one where several modules share the parameters.
        kind: the layer rule's name.
        shape: (out, in) of its weights as one matrix, the bias being one more input.
        parameters: how many numbers it trains.
        bias: whether it trains a bias.
        modules: names of all modules that use these parameters.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    parameters: int
    bias: bool
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """How much of a model attribution sees: numbers trained, and the names of parameters left out."""

    covered: int
    total: int
    share: float
    uncovered: list[str]


def covered_layers(model: nn.Module) -> list[LayerInfo]:
    """The layers that attribution covers, in the order of ``model.named_modules()``.

    Modules that share all their parameters count as one layer; modules that share only some, or with a layer
    of another kind, can't be told apart and are left out. Layers whose weight isn't trained are left out too.
    """
    modules = dict(model.named_modules())
    users: dict[int, set[tuple[type, tuple[int, ...]]]] = {}
    for module in modules.values():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), set()).add((type(module), _parameter_ids(module)))
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, module in modules.items():
        if find_rule(module) is None or not _trained(module, "weight"):
            continue
        if all(len(users[key]) == 1 for key in _parameter_ids(module)):
            groups.setdefault(_parameter_ids(module), []).append(name)
    return [_layer_info(modules[names[0]], names) for names in groups.values()]


def coverage(model: nn.Module) -> Coverage:
    """The share of a model's trained numbers that attribution covers, and the parameters that it doesn't."""
    modules = dict(model.named_modules())
    covered_ids = set()
    for layer in covered_layers(model):
        module = modules[layer.modules[0]]
        covered_ids.add(id(module.weight))
        if layer.bias:
            covered_ids.add(id(module.bias))
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    total = sum(p.numel() for _, p in trained)
    covered = sum(p.numel() for _, p in trained if id(p) in covered_ids)
    uncovered = [name for name, p in trained if id(p) not in covered_ids]
    return Coverage(covered, total, covered / total if total else 0.0, uncovered)


@dataclass(frozen=True)
class _Use:
    """One call of a covered module; ``fixed``: its inputs depend on no covered layer."""

    layer: LayerInfo
    module: nn.Module
    inputs: Tensor
    fixed: bool
    shape: torch.Size
    edge: GradientEdge


class Capture:
    """A model whose covered layers are being watched; made by ``capture``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers = covered_layers(model)
        self._uses: list[_Use] = []

    def forward(self, inputs: Inputs) -> Tensor:
        """The model's outputs for one batch; forgets the batch before."""
        self._uses.clear()
        with torch.enable_grad(), passes(_parameter(self.model).device):
            outputs: Tensor = self.model(inputs)
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.to(_parameter(self.model).dtype)
        if not outputs.requires_grad:
            raise AttributionError("No covered layer takes part in the model's output.", _LAYER_HINT)
        return outputs

    def gradients(
        self, target: Tensor, weights: Tensor, *, retain_graph: bool = False
    ) -> Iterator[tuple[str, LayerGradients]]:
        """Per-example gradients of Σ weights · target, layer by layer (convolutions unfold lazily).

        Args:
            target: ``[batch, …]``, the losses or the outputs of the last forward pass; one example, one row.
            weights: the gradient at ``target``, of the same shape.
            retain_graph: keep the graph for another call.

        Yields:
            (layer name, gradients); all uses of a layer in one.
        """
        edges = [use.edge for use in self._uses]
        found = torch.autograd.grad([target], edges, [weights], retain_graph=retain_graph, allow_unused=True)
        by_layer: dict[str, list[tuple[_Use, Tensor]]] = {}
        for use, gradient in zip(self._uses, found, strict=True):
            _check_batch(use, len(target))
            if gradient is None:
                gradient = torch.zeros(use.shape, dtype=target.dtype, device=target.device)
            by_layer.setdefault(use.layer.name, []).append((use, gradient))
        return ((name, _join(uses)) for name, uses in by_layer.items())

    def fixed_layers(self) -> set[str]:
        """Layers whose inputs in the last forward pass came from no covered layer: likely the same at all
        checkpoints."""
        moving = {use.layer.name for use in self._uses if not use.fixed}
        return {use.layer.name for use in self._uses} - moving

    def watch(self, layer: LayerInfo, module: nn.Module) -> Any:
        """Hooks one module of a layer; returns the hook's handle."""

        def record(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor:
            inputs = args[0] if args else kwargs["input"]
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            # In-place operations that follow are forbidden on a leaf and would move a view's gradient edge.
            if output.is_leaf or output._is_view():
                output = output.clone()
            edge = get_gradient_edge(output)
            self._uses.append(
                _Use(layer, module, inputs.detach(), not inputs.requires_grad, output.shape, edge)
            )
            return output

        return module.register_forward_hook(record, with_kwargs=True)


@contextmanager
def capture(model: nn.Module) -> Iterator[Capture]:
    """Watches the covered layers of ``model`` while the context is open.

    Raises:
        AttributionError: the model has no layer that attribution covers.
    """
    captured = Capture(model)
    if not captured.layers:
        raise AttributionError("The model has no layer that attribution covers.", _LAYER_HINT)
    modules = dict(model.named_modules())
    modes = [(module, module.training) for module in modules.values()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = []
    try:
        model.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        for layer in captured.layers:
            # One module may stand under several names in the model; hook it once.
            for module in {id(modules[name]): modules[name] for name in layer.modules}.values():
                handles.append(captured.watch(layer, module))
        yield captured
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


_LAYER_HINT = "Build it from trained nn.Linear, nn.Conv2d (groups=1) or nn.Embedding layers."


def _parameter_ids(module: nn.Module) -> tuple[int, ...]:
    return tuple(id(p) for p in module._parameters.values() if p is not None)


def _trained(module: nn.Module, name: str) -> bool:
    parameter = module._parameters.get(name)
    return parameter is not None and parameter.requires_grad


def _rule(module: nn.Module) -> LayerRule:
    rule = find_rule(module)
    assert rule is not None  # layers come from covered_layers
    return rule


def _layer_info(module: nn.Module, names: list[str]) -> LayerInfo:
    bias = _trained(module, "bias")
    rule = _rule(module)
    trained = sum(p.numel() for p in module._parameters.values() if p is not None and p.requires_grad)
    return LayerInfo(names[0], rule.kind, rule.matrix_shape(module, bias), trained, bias, tuple(names))


def _check_batch(use: _Use, batch: int) -> None:
    if use.inputs.shape[0] != batch or use.shape[0] != batch:
        raise AttributionError(
            f"Layer {use.layer.name!r} got inputs of shape {tuple(use.inputs.shape)} "
            f"in a batch of {batch} examples.",
            "Make the batch the first dimension of every covered layer's inputs.",
        )


def _join(uses: list[tuple[_Use, Tensor]]) -> LayerGradients:
    parts = []
    for use, gradients in uses:
        weight = use.module.get_parameter("weight")
        inputs = use.inputs.to(weight.dtype) if use.inputs.is_floating_point() else use.inputs
        parts.append(
            _rule(use.module).gradients(use.module, inputs, gradients.to(weight.dtype), use.layer.bias)
        )
    return parts[0].joined(parts[1:])


def _parameter(model: nn.Module) -> nn.Parameter:
    return next(parameter for parameter in model.parameters() if parameter.is_floating_point())
