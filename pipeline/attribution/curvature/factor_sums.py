"""Sums over rows that the curvature of layers is estimated from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.errors import NonFiniteError
from pipeline.attribution.trajectory.weights import under


@dataclass(frozen=True)
class FactorSums:
    """Covariance sums of the covered layers; ``a + b`` adds two.

    Attributes:
        input: layer -> Σ a aᵀ ``[in, in]``, or its diagonal ``[in]`` where inputs are one-hot; float64.
        gradient: layer -> Σ g gᵀ ``[out, out]``, float64.
        examples: how many examples were summed, an example counting once per checkpoint.
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
        """A flat dictionary for safetensors."""
        tensors = {f"input/{name}": value for name, value in self.input.items()}
        tensors |= {f"gradient/{name}": value for name, value in self.gradient.items()}
        return tensors | {"examples": torch.tensor(self.examples)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FactorSums:
        """The inverse of ``to_tensors``."""
        return cls(under("input/", tensors), under("gradient/", tensors), int(tensors["examples"]))


def add_into(total: dict[str, Tensor], parts: Mapping[str, Tensor]) -> None:
    """Adds by key, in place; a new key's tensor is taken as it is and changed by what follows."""
    for name, value in parts.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value


def add_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums by key; a key that only one side has keeps its value."""
    total = dict(first)
    for name, value in second.items():
        total[name] = total[name] + value if name in total else value
    return total


def check_finite(value: Tensor, layer: str, what: str) -> None:
    """Raises NonFiniteError unless all of a layer's ``value`` is finite; ``what`` it is, for the message."""
    if not torch.isfinite(value.sum()):
        raise NonFiniteError(
            f"The {what} of layer {layer!r} has a NaN or an infinity.",
            "Look for NaN in the data and for a training run that diverged.",
        )
