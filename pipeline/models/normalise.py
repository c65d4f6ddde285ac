"""Standardises images; this is the first layer of every built-in image model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormaliseImage(nn.Module):
    """Turns uint8 `[batch, channels, height, width]` into standardised float32 of the same shape.

    Args:
        mean: of each channel over the train rows, for pixels from 0 to 1.
        std: standard deviation of each channel over the train rows.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std
