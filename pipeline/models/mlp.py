"""A multilayer perceptron for the columns of a table or the pixels of an image."""

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
    """A multilayer perceptron on flattened inputs.

    Args:
        inputs: width of the flattened input.
        hidden: widths of the hidden layers.
        outputs: classes, labels, or 1 for regression.
        dropout: probability after each hidden layer.
        front: turns the encoded input into floats `[batch, …]`; None takes the input as it is.
    """
    head = [] if front is None else [front]
    return nn.Sequential(*head, nn.Flatten(), *dense_layers(inputs, hidden, outputs, dropout))
