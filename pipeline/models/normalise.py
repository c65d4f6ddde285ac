"""Bytes of an image to standardised floats, at the front of every built-in image model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormaliseImage(nn.Module):
    """uint8 `[batch, channels, height, width]` → float32 of the same shape, by the train set's mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image.to(self.mean.dtype) / 255 - self.mean) / self.std
