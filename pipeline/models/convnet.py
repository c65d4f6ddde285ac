"""A small convolutional network for images."""

from __future__ import annotations

from torch import nn

from pipeline.models.mlp import dense_layers


def convnet(
    in_channels: int,
    channels: list[int],
    hidden: list[int],
    outputs: int,
    front: nn.Module,
    dropout: float = 0.0,
) -> nn.Module:
    """Blocks of 3×3 convolution, ReLU and 2×2 pooling, a mean over places, then dense layers.

    No normalisation layers: every parameter is covered by attribution.
    """
    layers: list[nn.Module] = [front]
    for width in channels:
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        in_channels = width
    layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, *dense_layers(in_channels * 16, hidden, outputs, dropout))
