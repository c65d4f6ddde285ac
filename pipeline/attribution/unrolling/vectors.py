"""A model's trained parameters as one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class ParameterVector:
    """The order of a model's trained parameters in one vector. Tied parameters are in it once.

    Args:
        model: the model.
        groups: the names of the parameters, group by group. None puts all trained parameters in one group.

    Attributes:
        shapes: name -> shape of the parameter, in the order of the vector.
        places: the range of each group in the vector.
        size: the length of the vector.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Sequence[str]] | None = None) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        names = [list(trained)] if groups is None else [list(group) for group in groups]
        self.shapes = {name: trained[name].shape for group in names for name in group}
        sizes = [sum(trained[name].numel() for name in group) for group in names]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        self.places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        self.size = sum(sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Returns tensors that are named and shaped like the parameters as a new vector ``[size]``."""
        return torch.cat([tensors[name].detach().reshape(-1) for name in self.shapes])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Returns views of the vector ``[size]`` that are named and shaped like the parameters."""
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}
