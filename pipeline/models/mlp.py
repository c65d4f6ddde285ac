"""A multilayer perceptron over a table's columns or an image's pixels."""

from __future__ import annotations

from torch import nn


def dense_layers(inputs: int, hidden: list[int], outputs: int, dropout: float = 0.0) -> list[nn.Module]:
    """Linear–ReLU(–Dropout) for each hidden width, then a Linear to the outputs."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return [*layers, nn.Linear(inputs, outputs)]


def mlp(
    inputs: int, hidden: list[int], outputs: int, dropout: float = 0.0, front: nn.Module | None = None
) -> nn.Module:
    """`front` turns the encoded input into `[batch, …]` floats, which are flattened to `[batch, inputs]`."""
    head = [] if front is None else [front]
    return nn.Sequential(*head, nn.Flatten(), *dense_layers(inputs, hidden, outputs, dropout))
