"""Captures layer inputs and output gradients in a model's forward and backward pass.

During the capture, the parameters don't require gradients, so the backward pass forms no weight gradients. The model is
in evaluation mode: dropout is off, and BatchNorm uses its running statistics. All of this is undone at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.layer_gradients import LayerGradients
from pipeline.attribution.layers import Block, Record
from pipeline.attribution.model.calls import Inputs, predict, row_count
from pipeline.attribution.model.coverage import (
    Coverage,
    Layer,
    LayerInfo,
    Site,
    coverage,
    covered_layers,
    find_layers,
)
from pipeline.attribution.model.layouts import FOLDED, Layout, SeenUse, UseKey, check_fits, find_layouts, fits
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.model.precision import passes

__all__ = ["Capture", "Coverage", "LayerInfo", "capture", "coverage", "covered_layers"]

# The layouts of every model that was watched; a model whose uses don't fit them is looked at again.
_KNOWN: WeakKeyDictionary[nn.Module, Mapping[UseKey, Layout]] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Use:
    """One call of a covered block in a forward pass.

    Attributes:
        key: names the use in its forward pass.
        layer: the layer that the block belongs to.
        site: the block and its module.
        layout: how the batch lies in the inputs and the output.
        size: of the batch's dimension of the inputs that the model gave.
        inputs: the inputs of the call; an input for all rows is there once for each row.
        fixed: whether the inputs depend on no covered layer.
        shape: the shape of the output.
        edge: the place in the autograd graph where the output's gradient is read.
    """

    key: UseKey
    layer: LayerInfo
    site: Site
    layout: Layout
    size: int
    inputs: Tensor
    fixed: bool
    shape: torch.Size
    edge: GradientEdge


class Capture:
    """A model whose covered layers are watched; ``capture`` makes it."""

    def __init__(self, model: nn.Module, layers: list[LayerInfo], trained: list[nn.Parameter]) -> None:
        self.model = model
        self.layers = layers
        self.trained = trained
        self._uses: list[_Use] = []
        self._calls: Counter[tuple[str, str]] = Counter()
        self._layouts: Mapping[UseKey, Layout] = {}
        self._rows = 0
        self._watching = True
        self._in_backward = False

    def forward(self, inputs: Inputs) -> Tensor:
        """Runs the model on one batch, and forgets the batch before.

        The first batch of a model is looked at more closely: ``layouts.find_layouts``.

        Returns:
            The model's outputs.

        Raises:
            AttributionError: the model doesn't return a tensor, its output depends on no covered layer, its rows depend
                on each other, or a layer's inputs have no place for the batch.
        """
        if not row_count(inputs):
            return self.run(inputs, {})[0]
        known = _KNOWN.get(self.model)
        if known is not None:
            outputs, uses = self.run(inputs, known)
            if all(fits(use, known, row_count(inputs)) for use in uses):
                return outputs
        _KNOWN[self.model] = known = find_layouts(self, self._plain, inputs)
        outputs, uses = self.run(inputs, known)
        for use in uses:
            check_fits(use, known, row_count(inputs))
        return outputs

    def run(self, inputs: Inputs, layouts: Mapping[UseKey, Layout]) -> tuple[Tensor, list[SeenUse]]:
        """Runs the model on one batch, with the batch where ``layouts`` says. ``forward`` says the rest.

        Returns:
            (the model's outputs, the uses of layers in their order).
        """
        self._uses.clear()
        self._calls.clear()
        self._layouts, self._rows = layouts, row_count(inputs)
        with torch.enable_grad(), passes(_parameter(self.model).device), _plain_attention():
            outputs = predict(self.model, inputs)
        if outputs.dtype == torch.bfloat16:
            outputs = outputs.to(_parameter(self.model).dtype)
        if not outputs.requires_grad:
            raise AttributionError("No covered layer takes part in the model's output.", _LAYER_HINT)
        return outputs, [SeenUse(use.key, use.size, use.site.batch) for use in self._uses]

    def output_gradients(self, target: Tensor) -> list[Tensor | None]:
        """Returns the gradient of ``target`` with respect to the output of every use in the last forward pass."""
        return self._backward(target, None, retain_graph=True)

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
        """
        found = self._backward(target, weights, retain_graph)
        by_layer: dict[str, list[tuple[_Use, Tensor]]] = {}
        for use, gradient in zip(self._uses, found, strict=True):
            if gradient is None:
                gradient = torch.zeros(use.shape, dtype=target.dtype, device=target.device)
            by_layer.setdefault(use.layer.name, []).append((use, gradient))
        return ((name, _join(uses, len(target))) for name, uses in by_layer.items())

    def _backward(self, target: Tensor, weights: Tensor | None, retain_graph: bool) -> list[Tensor | None]:
        edges = [use.edge for use in self._uses]
        # Given `weights`, torch would import sympy to compare their shape with the target's.
        total = target if weights is None else (target * weights).sum()
        self._in_backward = True
        try:
            return list(torch.autograd.grad(total, edges, retain_graph=retain_graph, allow_unused=True))
        finally:
            self._in_backward = False

    @contextmanager
    def released(self) -> Iterator[None]:
        """Nothing is watched inside, and parameters require gradients as before the capture.

        What the last forward pass captured stays.
        """
        self._watching = False
        try:
            for parameter in self.trained:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter in self.trained:
                parameter.requires_grad_(False)
            self._watching = True

    def _plain(self, inputs: Inputs) -> Tensor:
        """Returns the outputs without watching the layers."""
        self._watching = False
        try:
            with passes(_parameter(self.model).device), _plain_attention():
                return predict(self.model, inputs)
        finally:
            self._watching = True

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
            if block.name not in sites or not self._watching:
                return output
            layer, site = sites[block.name]
            if not torch.is_grad_enabled():
                raise AttributionError(
                    f"Layer {layer.name!r} runs under torch.no_grad() or torch.utils.checkpoint with "
                    "use_reentrant=True, where its gradients can't be read.",
                    "Switch that off for attribution, or give use_reentrant=False; a layer that isn't trained needs "
                    "requires_grad=False.",
                )
            if self._in_backward:
                return self._repeated(layer, site, output)
            use = (layer.name, f"{site.name}.{block.name}")
            key = (*use, self._calls[use])
            self._calls[use] += 1
            layout = self._layouts.get(key, Layout.ROWS)
            size = inputs.shape[site.batch] if inputs.dim() > site.batch else 0
            inputs = _for_every_row(inputs, layout, site.batch, self._rows)
            output = self._watched(output, layout, site)
            edge, fixed = get_gradient_edge(output), not inputs.requires_grad
            self._uses.append(
                _Use(key, layer, site, layout, size, inputs.detach(), fixed, output.shape, edge)
            )
            return output

        return record

    def _watched(self, output: Tensor, layout: Layout, site: Site) -> Tensor:
        """Returns a layer's output with one part for each row, as a tensor whose gradient can be read."""
        output = _for_every_row(output, layout, site.batch, self._rows)
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        # The model may change the output in place. torch forbids this for a leaf, and it would move the gradient edge
        # of a view.
        return output.clone() if output.is_leaf or output._is_view() else output

    def _repeated(self, layer: LayerInfo, site: Site, output: Tensor) -> Tensor:
        """Returns what the forward pass got, where torch.utils.checkpoint repeats it during the backward pass.

        Raises:
            AttributionError: the layer is used in several ways, so it isn't known which use this is.
        """
        layouts = {use.layout for use in self._uses if use.site is site}
        if len(layouts) != 1:
            raise AttributionError(
                f"Layer {layer.name!r} is used in several ways under torch.utils.checkpoint.",
                "Switch checkpoints of activations off for attribution.",
            )
        return self._watched(output, layouts.pop(), site)


@contextmanager
def capture(model: nn.Module) -> Iterator[Capture]:
    """Watches the covered layers of ``model`` inside the context.

    Raises:
        AttributionError: the model has no layer that attribution covers.
    """
    found = find_layers(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    captured = Capture(model, [layer.info for layer in found], trained)
    if not found:
        raise AttributionError("The model has no layer that attribution covers.", _LAYER_HINT)
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


def _for_every_row(tensor: Tensor, layout: Layout, batch: int, rows: int) -> Tensor:
    """Returns a tensor of one input for all rows with a batch dimension of ``rows``; others are returned unchanged."""
    if layout is Layout.SHARED:
        tensor = tensor.unsqueeze(batch)
    elif layout is not Layout.ONE:
        return tensor
    return tensor.expand(*tensor.shape[:batch], rows, *tensor.shape[batch + 1 :])


def _join(uses: list[tuple[_Use, Tensor]], rows: int) -> LayerGradients:
    parts = []
    for use, gradients in uses:
        site, dtype = use.site, use.site.parameters[0].dtype
        inputs = use.inputs.to(dtype) if use.inputs.is_floating_point() else use.inputs
        if site.batch == 1:
            inputs, gradients = inputs.transpose(0, 1), gradients.transpose(0, 1)
        pairs = (_unfolded(each, use.layout, rows) for each in (inputs, gradients.to(dtype)))
        if use.layout not in FOLDED or site.rule.takes_positions:
            pieces = [tuple(pairs)]
        else:
            pieces = list(zip(*(each.unbind(1) for each in pairs), strict=True))
        parts += [site.rule.gradients(site.module, site.block, *piece) for piece in pieces]
    return parts[0].joined(parts[1:])


def _unfolded(tensor: Tensor, layout: Layout, rows: int) -> Tensor:
    """Returns a folded tensor as ``[rows, positions, …]``; any other is returned unchanged."""
    if layout is Layout.FOLDED:
        return tensor.unflatten(0, (rows, -1))
    if layout is Layout.TOWERS:
        return tensor.unflatten(0, (-1, rows)).transpose(0, 1)
    return tensor


def _parameter(model: nn.Module) -> nn.Parameter:
    return next(parameter for parameter in model.parameters() if parameter.is_floating_point())
