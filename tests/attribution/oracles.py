"""Slow, plain computations to compare with: one row at a time, dense matrices, explicit formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp

import torch
from torch import Tensor, nn

from pipeline.attribution import Batch, Objective, PreparedSegment, covered_layers


def row_of(inputs: Tensor | Mapping[str, Tensor], row: int) -> Tensor | dict[str, Tensor]:
    if isinstance(inputs, Tensor):
        return inputs[row : row + 1]
    return {name: value[row : row + 1] for name, value in inputs.items()}


def layer_matrices(
    model: nn.Module, inputs: Tensor | Mapping[str, Tensor], rows: int, value: Callable[[Tensor, int], Tensor]
) -> dict[str, Tensor]:
    """Layer -> gradient of ``value(outputs, row)`` as [rows, out, in], by a backward pass for every row."""
    modules = dict(model.named_modules())
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in covered_layers(model)}
    was_training = model.training
    model.eval()
    for row in range(rows):
        model.zero_grad()
        value(model(row_of(inputs, row)), row).backward()
        for layer in covered_layers(model):
            module = modules[layer.name]
            weight = module.weight.grad
            matrix = weight.T if isinstance(module, nn.Embedding) else weight.flatten(1)
            if layer.bias:
                matrix = torch.cat([matrix, module.bias.grad[:, None]], 1)
            found[layer.name].append(matrix.clone())
    model.zero_grad()
    model.train(was_training)
    return {name: torch.stack(matrices) for name, matrices in found.items()}


def loss_matrices(
    model: nn.Module,
    objective: Objective,
    inputs: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Layer -> every row's (weighted) loss gradient, [rows, out, in]."""

    def loss(outputs: Tensor, row: int) -> Tensor:
        plain = objective.losses(outputs, labels[row : row + 1]).sum()
        return plain if weights is None else plain * weights[row]

    return layer_matrices(model, inputs, len(labels), loss)


def source_injection(sigma: Tensor, lr_sum: float, weight_decay: float) -> Tensor:
    """(1 − exp(−tσ)) / σ, number by number."""

    def one(value: float) -> float:
        value = max(value, 0.0) + weight_decay
        return lr_sum if value * lr_sum < 1e-12 else (1.0 - exp(-lr_sum * value)) / value

    return sigma.clone().apply_(one)


def source_transport(sigma: Tensor, lr_sum: float, weight_decay: float) -> Tensor:
    return torch.exp(-lr_sum * (sigma.clamp(min=0.0) + weight_decay))


def apply(basis, factor: Tensor, matrix: Tensor) -> Tensor:
    """F(H) V for one matrix, in parameter space."""
    inputs = torch.eye(matrix.shape[1], dtype=matrix.dtype) if basis.input is None else basis.input
    return basis.gradient @ (factor * (basis.gradient.T @ matrix @ inputs)) @ inputs.T


def influence(
    query: Mapping[str, Tensor],
    row: Sequence[Mapping[str, Tensor]],
    segments: Sequence[PreparedSegment],
    settings: Sequence[tuple[float, float]],
    train_rows: int,
) -> float:
    """τ of Eq. 24 for one query and one row; ``row`` has the row's gradients at every checkpoint."""
    total = 0.0
    for name, gradient in query.items():
        moving = gradient
        for segment, (lr_sum, weight_decay) in reversed(list(zip(segments, settings, strict=True))):
            basis, sigma = segment.bases[name], segment.eigenvalues[name]
            injected = apply(basis, source_injection(sigma, lr_sum, weight_decay), moving)
            for checkpoint in segment.checkpoints:
                product = (injected * row[checkpoint][name]).sum()
                total += product.item() / (train_rows * len(segment.checkpoints))
            moving = apply(basis, source_transport(sigma, lr_sum, weight_decay), moving)
    return total


def split(batch: Batch, size: int) -> list[Batch]:
    """The same rows in batches of ``size``."""
    pieces = []
    for start in range(0, len(batch.row_ids), size):
        rows = slice(start, start + size)
        inputs = batch.inputs
        pieces.append(
            Batch(
                inputs[rows] if isinstance(inputs, Tensor) else {k: v[rows] for k, v in inputs.items()},
                batch.labels[rows],
                batch.row_ids[rows],
                None if batch.weights is None else batch.weights[rows],
            )
        )
    return pieces
