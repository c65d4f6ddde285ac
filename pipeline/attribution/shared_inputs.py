"""What the checkpoints have in common: a layer that sees the data itself gets the same inputs at each."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from pipeline.attribution.gradients import Eigenbasis, LayerGradients


@dataclass
class SharedInputs:
    """Results of one batch that depend on a layer's inputs alone; reused where the inputs are equal.

    Keep one per batch, and offer it only the layers that ``Capture.fixed_layers`` names.
    """

    _kept: dict[str, tuple[LayerGradients, Tensor | None]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        held = [gradients.nbytes for gradients, _ in self._kept.values()]
        return sum(held) + sum(value.nbytes for _, value in self._kept.values() if value is not None)

    def covariance(self, layer: str, gradients: LayerGradients, row_scale: Tensor | None) -> Tensor:
        """``gradients.input_covariance(row_scale)``; the scale must be the batch's own."""
        if not self._holds(layer, gradients):
            self._kept[layer] = (gradients, gradients.input_covariance(row_scale))
        value = self._kept[layer][1]
        assert value is not None
        return value

    def squared_inputs(self, layer: str, gradients: LayerGradients, basis: Eigenbasis) -> Tensor | None:
        """``gradients.squared_inputs(basis)``; the basis must be the same in all calls."""
        if not self._holds(layer, gradients):
            self._kept[layer] = (gradients, gradients.squared_inputs(basis))
        return self._kept[layer][1]

    def _holds(self, layer: str, gradients: LayerGradients) -> bool:
        return layer in self._kept and gradients.with_inputs_of(self._kept[layer][0]) is not None
