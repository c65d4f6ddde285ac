"""What the checkpoints have in common: a layer that sees the data itself gets the same inputs at each.

What depends on such inputs is computed once, when all checkpoints have been visited: their covariance times the
number of visits, and Σ_checkpoints (g̃²)ᵀ ã² as (Σ_checkpoints g̃²)ᵀ ã².
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients
from pipeline.attribution.gradients.outer_products import OuterProducts


@dataclass
class SharedInputs:
    """Layers of one batch whose inputs were equal at all checkpoints so far, and what was put off for them.

    Keep one per batch and pass, and offer it only the layers that ``Capture.fixed_layers`` names.
    """

    _first: dict[str, LayerGradients] = field(default_factory=dict)
    _visits: dict[str, int] = field(default_factory=dict)
    _squared_outputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that are held until the last checkpoint."""
        held = [gradients.nbytes for gradients in self._first.values()]
        return sum(held) + sum(value.nbytes for value in self._squared_outputs.values())

    def counted(self, layer: str, gradients: LayerGradients) -> bool:
        """Whether these inputs' covariance is put off, being the same as at the first visit."""
        if self._same(layer, gradients) is None:
            return False
        self._visits[layer] = self._visits.get(layer, 0) + 1
        return True

    def covariances(self, row_scale: Tensor | None) -> dict[str, Tensor]:
        """Layer -> ``input_covariance(row_scale)`` summed over the visits that were put off."""
        return {
            layer: self._first[layer].input_covariance(row_scale) * count
            for layer, count in self._visits.items()
        }

    def squared(self, layer: str, gradients: LayerGradients, basis: Eigenbasis) -> bool:
        """Whether these gradients' squares are put off; the basis must be the same at all visits."""
        if not isinstance(gradients, OuterProducts) or gradients.positions > 1:
            return False
        same = self._same(layer, gradients)
        if same is None:
            return False
        found = gradients.squared_outputs(basis)
        if layer in self._squared_outputs:
            self._squared_outputs[layer] += found
        else:
            self._squared_outputs[layer] = found
        return True

    def squares(self, bases: Mapping[str, Eigenbasis]) -> dict[str, Tensor]:
        """Layer -> Σ (Q_Sᵀ G Q_A)² over the visits that were put off: ``[out, in]``, float64."""
        found = {}
        for layer, squared_outputs in self._squared_outputs.items():
            gradients = self._first[layer]
            assert isinstance(gradients, OuterProducts)
            found[layer] = gradients.squares_of(squared_outputs, bases[layer])
        return found

    def _same(self, layer: str, gradients: LayerGradients) -> LayerGradients | None:
        return gradients.with_inputs_of(self._first.setdefault(layer, gradients))
