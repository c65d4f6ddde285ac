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
            found[layer.name].append(gradient_matrix(modules, layer.name))
    model.zero_grad()
    model.train(was_training)
    return {name: torch.stack(matrices) for name, matrices in found.items()}


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def gradient_matrix(modules: Mapping[str, nn.Module], name: str) -> Tensor:
    """A layer's ``.grad`` as one matrix, the bias being its last column; attention's parts by name."""
    attention, _, part = name.rpartition(".")
    if isinstance(modules.get(attention), nn.MultiheadAttention) and part != "out_proj":
        owner, place = modules[attention], ("q_proj", "k_proj", "v_proj").index(part)
        packed = owner.in_proj_weight
        weight = getattr(owner, f"{part}_weight").grad if packed is None else packed.grad.chunk(3)[place]
        bias = None if owner.in_proj_bias is None else owner.in_proj_bias.grad.chunk(3)[place]
    else:
        module = modules[name]
        weight, bias = module.weight.grad, getattr(module, "bias", None)
        bias = None if bias is None else bias.grad
        tied = any(isinstance(m, nn.Linear) and m.weight is module.weight for m in modules.values())
        if tied and isinstance(module, nn.Embedding):  # its matrix is the head's, whose bias comes with it
            (head,) = (m for m in modules.values() if isinstance(m, nn.Linear) and m.weight is module.weight)
            bias = None if head.bias is None else head.bias.grad
        elif isinstance(module, nn.Embedding):
            weight = weight.T
        weight = weight.flatten()[:, None] if isinstance(module, NORMS) else weight.flatten(1)
    return weight.clone() if bias is None else torch.cat([weight, bias.flatten()[:, None]], 1)


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


def dense_basis(basis, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Both bases as matrices, for gradients like ``matrix``."""
    inputs = torch.eye(matrix.shape[-1], dtype=matrix.dtype) if basis.input is None else basis.input
    return (torch.diag(basis.gradient) if basis.gradient.dim() == 1 else basis.gradient), inputs


def apply(basis, factor: Tensor, matrix: Tensor) -> Tensor:
    """F(H) V for one matrix, in parameter space."""
    outputs, inputs = dense_basis(basis, matrix)
    return outputs @ (factor * (outputs.T @ matrix @ inputs)) @ inputs.T


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
