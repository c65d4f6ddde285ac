"""The covariance sums over rows from which the Kronecker factors are estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.errors import NonFiniteError
from pipeline.attribution.trajectory.weights import under


@dataclass(frozen=True)
class FactorSums:
    """Covariance sums of the covered layers. ``first + second`` adds two of them.

    Attributes:
        input: layer -> Σ a aᵀ, float64 ``[in, in]``, or the diagonal ``[in]`` if the layer's rule has
            ``diagonal_input``.
        gradient: layer -> Σ g gᵀ, float64 ``[out, out]``, or the diagonal ``[out]`` if the rule has
            ``diagonal_gradient``.
        examples: the number of examples summed. An example counts once per checkpoint.
    """

    input: dict[str, Tensor]
    gradient: dict[str, Tensor]
    examples: int

    def __add__(self, other: FactorSums) -> FactorSums:
        return FactorSums(
            add_tensors(self.input, other.input),
            add_tensors(self.gradient, other.gradient),
            self.examples + other.examples,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Returns the sums as a flat dictionary for safetensors."""
        tensors = {f"input/{name}": value for name, value in self.input.items()}
        tensors |= {f"gradient/{name}": value for name, value in self.gradient.items()}
        return tensors | {"examples": torch.tensor(self.examples)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FactorSums:
        """Returns the sums: the inverse of ``to_tensors``."""
        return cls(under("input/", tensors), under("gradient/", tensors), int(tensors["examples"]))


def add_into(total: dict[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    """Adds ``parts`` to ``total`` by key, in place.

    The tensor of a new key isn't copied: later additions change it.
    """
    for name, value in parts.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value


def add_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the sums by key. A key that is in one of the two only keeps its value."""
    total = dict(first)
    for name, value in second.items():
        total[name] = total[name] + value if name in total else value
    return total


def check_finite(value: Tensor, layer: str, what: str) -> None:
    """Checks that a value of a layer is finite.

    Args:
        value: the tensor to check.
        layer: the layer's name, for the message.
        what: what the value is, for the message.

    Raises:
        NonFiniteError: the value has a NaN or an infinity.
    """
    if not torch.isfinite(value.sum()):
        raise NonFiniteError(
            f"The {what} of layer {layer!r} has a NaN or an infinity.",
            "Look for NaN in the data and for a training run that diverged.",
        )
