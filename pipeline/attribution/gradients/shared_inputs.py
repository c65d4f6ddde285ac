"""Layer inputs that are the same at all checkpoints, such as those of a layer that gets the data itself.

Sums that depend on such inputs are computed once, after all checkpoints have been visited. The input covariance is
multiplied by the number of visits. The squares Σ_checkpoints (g̃²)ᵀ ã² are computed as (Σ_checkpoints g̃²)ᵀ ã².
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.attribution.gradients.layer_gradients import Eigenbasis, LayerGradients
from pipeline.attribution.gradients.outer_products import OuterProducts


@dataclass
class SharedInputs:
    """The deferred sums of one batch's layers whose inputs are the same as at the first checkpoint visited.

    Use one object per batch and pass, and only for layers that ``Capture.fixed_layers`` names.
    """

    _first: dict[str, LayerGradients] = field(default_factory=dict)
    _visits: dict[str, int] = field(default_factory=dict)
    _squared_outputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The bytes that are held until the last checkpoint has been visited."""
        held = [gradients.nbytes for gradients in self._first.values()]
        return sum(held) + sum(value.nbytes for value in self._squared_outputs.values())

    def counted(self, layer: str, gradients: LayerGradients) -> bool:
        """Counts a visit whose inputs are the same as at the layer's first visit.

        Returns:
            Whether they are the same. If so, ``covariances`` includes the visit; else the caller must add the input
            covariance of the visit itself.
        """
        if self._same(layer, gradients) is None:
            return False
        self._visits[layer] = self._visits.get(layer, 0) + 1
        return True

    def covariances(self, row_scale: Tensor | None) -> dict[str, Tensor]:
        """Returns layer -> ``input_covariance(row_scale)``, summed over the visits that ``counted`` accepted."""
        return {
            layer: self._first[layer].input_covariance(row_scale) * count
            for layer, count in self._visits.items()
        }

    def squared(self, layer: str, gradients: LayerGradients, basis: Eigenbasis) -> bool:
        """Defers the squares of a visit whose inputs are the same as at the layer's first visit.

        The basis must be the same at all visits.

        Returns:
            Whether the squares are deferred. If so, ``squares`` includes the visit; else the caller must add the
            squares of the visit itself.
        """
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
        """Returns layer -> Σ (Q_Sᵀ G Q_A)² over the deferred visits: float64 ``[out, in]``."""
        found = {}
        for layer, squared_outputs in self._squared_outputs.items():
            gradients = self._first[layer]
            assert isinstance(gradients, OuterProducts)
            found[layer] = gradients.squares_of(squared_outputs, bases[layer])
        return found

    def _same(self, layer: str, gradients: LayerGradients) -> LayerGradients | None:
        return gradients.with_inputs_of(self._first.setdefault(layer, gradients))
