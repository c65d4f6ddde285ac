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
    """Blocks of 3×3 convolution, ReLU and 2×2 max pooling, then average pooling to 4×4 and dense layers.

    The network has no normalisation layers, so that attribution covers every parameter.

    Args:
        in_channels: of the image.
        channels: the output channels of each block.
        hidden: widths of the hidden dense layers.
        outputs: classes, labels, or 1 for regression.
        front: turns the encoded image into floats of the same shape.
        dropout: probability after each hidden dense layer.
    """
    layers: list[nn.Module] = [front]
    for width in channels:
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        in_channels = width
    layers += [nn.AdaptiveAvgPool2d(4), nn.Flatten()]
    return nn.Sequential(*layers, *dense_layers(in_channels * 16, hidden, outputs, dropout))
