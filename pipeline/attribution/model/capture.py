"""Captures layer inputs and output gradients in a model's forward and backward pass.

During the capture, the parameters don't require gradients, so the backward pass forms no weight gradients. The model is
in evaluation mode: dropout is off, and BatchNorm uses its running statistics. All of this is undone at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.layer_gradients import LayerGradients
from pipeline.attribution.layers import Block, Record
from pipeline.attribution.model.coverage import (
    Coverage,
    Layer,
    LayerInfo,
    Site,
    coverage,
    covered_layers,
    find_layers,
)
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.model.precision import passes

__all__ = ["Capture", "Coverage", "Inputs", "LayerInfo", "capture", "coverage", "covered_layers"]

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class _Use:
    """One call of a covered block in a forward pass.

    Attributes:
        layer: the layer that the block belongs to.
        site: the block and its module.
        inputs: the inputs of the call.
        fixed: whether the inputs depend on no covered layer.
        shape: the shape of the output.
        edge: the place in the autograd graph where the output's gradient is read.
    """

    layer: LayerInfo
    site: Site
    inputs: Tensor
    fixed: bool
    shape: torch.Size
    edge: GradientEdge


class Capture:
    """A model whose covered layers are watched; ``capture`` makes it."""

    def __init__(self, model: nn.Module, layers: list[LayerInfo]) -> None:
        self.model = model
        self.layers = layers
        self._uses: list[_Use] = []
        self._in_backward = False

    def forward(self, inputs: Inputs) -> Tensor:
        """Runs the model on one batch, and forgets the batch before.

        Returns:
            The model's outputs.

        Raises:
            AttributionError: the model doesn't return a tensor, or its output depends on no covered layer.
        """
        self._uses.clear()
        with torch.enable_grad(), passes(_parameter(self.model).device), _plain_attention():
            outputs: Tensor = self.model(inputs)
        if not isinstance(outputs, Tensor):
            raise AttributionError(
                f"The model returns {type(outputs).__name__} and not a tensor.",
                "Wrap it in a module whose forward returns the outputs alone, such as the logits.",
            )
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.to(_parameter(self.model).dtype)
        if not outputs.requires_grad:
            raise AttributionError("No covered layer takes part in the model's output.", _LAYER_HINT)
        return outputs

    def gradients(
        self, target: Tensor, weights: Tensor, *, retain_graph: bool = False
    ) -> Iterator[tuple[str, LayerGradients]]:
        """Yields the per-example gradients of Σ weights · target, layer by layer.

        Args:
            target: ``[batch, …]``, the losses or the outputs of the last forward pass. Each row is an example.
            weights: the gradient with respect to ``target``, of the same shape.
            retain_graph: whether to keep the graph for another call.

        Yields:
            (layer name, gradients). The gradients are the sum over all uses of the layer.

        Raises:
            AttributionError: the batch isn't the first dimension of a layer's inputs.
        """
        edges = [use.edge for use in self._uses]
        self._in_backward = True
        try:
            found = torch.autograd.grad(
                [target], edges, [weights], retain_graph=retain_graph, allow_unused=True
            )
        finally:
            self._in_backward = False
        by_layer: dict[str, list[tuple[_Use, Tensor]]] = {}
        for use, gradient in zip(self._uses, found, strict=True):
            _check_batch(use, len(target))
            if gradient is None:
                gradient = torch.zeros(use.shape, dtype=target.dtype, device=target.device)
            by_layer.setdefault(use.layer.name, []).append((use, gradient))
        return ((name, _join(uses)) for name, uses in by_layer.items())

    def last_inputs(self) -> Tensor:
        """Returns the inputs of the layer that the last forward pass used last, ``[batch, features]``.

        The inputs of a Linear layer with several positions are averaged over the positions.
        """
        use = self._uses[-1]
        inputs = use.inputs.transpose(0, 1) if use.site.batch == 1 else use.inputs
        if isinstance(use.site.module, nn.Linear) and inputs.dim() > 2:
            return inputs.flatten(1, -2).mean(1)
        return inputs.flatten(1)

    def fixed_layers(self) -> set[str]:
        """Returns the layers whose inputs in the last forward pass depend on no covered layer.

        Such inputs are likely the same at all checkpoints.
        """
        moving = {use.layer.name for use in self._uses if not use.fixed}
        return {use.layer.name for use in self._uses} - moving

    def recorder(self, found: list[Layer], module: nn.Module) -> Record:
        """Returns the function that a module's rule calls in a forward pass for every use of a block.

        Args:
            found: all covered layers.
            module: the module.
        """
        sites = {
            site.block.name: (layer.info, site)
            for layer in found
            for site in layer.sites
            if site.module is module
        }

        def record(block: Block, inputs: Tensor, output: Tensor) -> Tensor:
            if block.name not in sites:
                return output
            layer, site = sites[block.name]
            if self._in_backward or not torch.is_grad_enabled():
                raise AttributionError(
                    f"Layer {layer.name!r} runs under torch.no_grad() or torch.utils.checkpoint, where its gradients "
                    "can't be read.",
                    "Switch that off for attribution; a layer that isn't trained needs requires_grad=False.",
                )
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            # The model may change the output in place. torch forbids this for a leaf, and it would move the gradient
            # edge of a view.
            if output.is_leaf or output._is_view():
                output = output.clone()
            edge, fixed = get_gradient_edge(output), not inputs.requires_grad
            self._uses.append(_Use(layer, site, inputs.detach(), fixed, output.shape, edge))
            return output

        return record


@contextmanager
def capture(model: nn.Module) -> Iterator[Capture]:
    """Watches the covered layers of ``model`` inside the context.

    Raises:
        AttributionError: the model has no layer that attribution covers.
    """
    found = find_layers(model)
    captured = Capture(model, [layer.info for layer in found])
    if not found:
        raise AttributionError("The model has no layer that attribution covers.", _LAYER_HINT)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    watched = {site.module: site.rule for layer in found for site in layer.sites}
    try:
        with evaluation_mode(model), ExitStack() as stack:
            for module, rule in watched.items():
                stack.callback(rule.watch(module, captured.recorder(found, module)))
            for parameter in trained:
                parameter.requires_grad_(False)
            yield captured
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


_LAYER_HINT = (
    "Build it from trained Linear, Conv1d, Conv2d, Embedding, MultiheadAttention "
    "or normalisation layers of torch.nn."
)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Makes torch's transformer layers call their modules one by one instead of a single fused function."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check_batch(use: _Use, batch: int) -> None:
    if use.inputs.shape[use.site.batch] != batch or use.shape[use.site.batch] != batch:
        raise AttributionError(
            f"Layer {use.layer.name!r} got inputs of shape {tuple(use.inputs.shape)} "
            f"in a batch of {batch} examples.",
            "Make the batch the first dimension of every covered layer's inputs.",
        )


def _join(uses: list[tuple[_Use, Tensor]]) -> LayerGradients:
    parts = []
    for use, gradients in uses:
        site, dtype = use.site, use.site.parameters[0].dtype
        inputs = use.inputs.to(dtype) if use.inputs.is_floating_point() else use.inputs
        if site.batch == 1:
            inputs, gradients = inputs.transpose(0, 1), gradients.transpose(0, 1)
        parts.append(site.rule.gradients(site.module, site.block, inputs, gradients.to(dtype)))
    return parts[0].joined(parts[1:])


def _parameter(model: nn.Module) -> nn.Parameter:
    return next(parameter for parameter in model.parameters() if parameter.is_floating_point())
