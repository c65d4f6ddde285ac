"""What a step's loss and gradient norm should be at a checkpoint, by the objective that is told.

Let g_i be the gradient of the loss of row i, ḡ their mean, and q the mean of ‖g_i‖². The gradient of a batch of B rows
that are drawn without replacement from N rows has the expected squared norm

    ‖ḡ‖² + (q − ‖ḡ‖²) / B · (N − B) / (N − 1)

Both terms are estimated on n of the rows, whose mean gradient has such a squared norm too, with n for B. Where all rows
are looked at, ‖ḡ‖² is exact. q is the mean of ‖Σ ±g_i‖² over parts of the rows, with random signs: that takes a
backward pass for each part, and no gradients of single rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.attribution.curvature.passes import sampled_batches
from pipeline.attribution.model.calls import predict
from pipeline.attribution.model.modes import modes_kept
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch

# About the number of rows that are looked at, at every checkpoint, the rows of a part, and the parts of few rows.
CHECKED_ROWS = 512
_PART_ROWS = 32
_PARTS = 16


@dataclass(frozen=True)
class Estimate:
    """A mean over rows or steps, with its standard error as a share of it."""

    mean: float
    error: float


@dataclass(frozen=True)
class Expected:
    """What is expected of a step at a checkpoint.

    Attributes:
        loss: the mean loss of the objective that is told.
        others: name -> the mean loss of another objective that training may have had.
        squared_norm: the expected squared norm of a batch's gradient; None if it wasn't asked for.
    """

    loss: Estimate
    others: Mapping[str, float]
    squared_norm: Estimate | None


def checked_rows(batches: Iterable[Batch], rows: int, seed: int) -> list[Batch]:
    """Returns a random choice of about ``CHECKED_ROWS`` of ``rows`` rows, in parts."""
    share = min(1.0, CHECKED_ROWS / rows)
    chosen = (batch for batch, _ in sampled_batches(batches, share, seed))
    size = max(1, min(_PART_ROWS, rows // _PARTS))
    return [part for batch in chosen for part in _parts(batch, size)]


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for places in torch.arange(len(batch.row_ids)).split(size):
        if len(places):
            yield batch.select(places)


def expected_at(
    model: nn.Module,
    objective: Objective,
    others: Mapping[str, Objective],
    parts: Iterable[Batch],
    rows: int,
    batch_size: int | None,
    seed: int,
) -> Expected:
    """Returns what a step at the model's present weights should have.

    Args:
        model: the model at the weights of a checkpoint.
        objective: the objective that is told.
        others: name -> another objective.
        parts: the rows to look at.
        rows: N, the number of training rows.
        batch_size: B, the number of rows of a step; None asks for no gradient norms.
        seed: the seed of dropout and of random signs.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in trained]
    losses: list[Tensor] = []
    sums = dict.fromkeys(others, 0.0)
    squares: list[tuple[float, int]] = []
    generator = torch.Generator().manual_seed(seed)
    with _as_in_training(model, seed):
        for part in parts:
            with torch.set_grad_enabled(batch_size is not None):
                outputs = predict(model, part.inputs)
                found = _weighted(objective.losses(outputs, part.labels), part)
            losses.append(found.detach().double().cpu())
            for name, other in others.items():
                sums[name] += float(_weighted(other.losses(outputs.detach(), part.labels), part).sum())
            if batch_size is not None:
                signs = 2 * torch.randint(2, (len(found),), generator=generator).to(found) - 1
                for kept, gradient in zip(total, _gradients(found, trained, None), strict=True):
                    kept += gradient
                signed = _gradients(found, trained, signs)
                squares.append((_squared(signed), len(found)))
    all_losses = torch.cat(losses)
    count = len(all_losses)
    norm = None if batch_size is None else _squared_norm(total, squares, rows, batch_size)
    return Expected(mean_of(all_losses.tolist()), {name: value / count for name, value in sums.items()}, norm)


def _weighted(losses: Tensor, batch: Batch) -> Tensor:
    return losses if batch.weights is None else losses * batch.weights.to(losses)


def _squared_norm(
    total: list[Tensor], squares: list[tuple[float, int]], rows: int, batch_size: int
) -> Estimate:
    count = sum(size for _, size in squares)
    single = sum(square for square, _ in squares) / count
    error = mean_of([square / size for square, size in squares]).error
    here, there = (_share_of_single(size, rows) for size in (count, min(batch_size, rows)))
    if here == 1.0:  # one row of many
        return Estimate(single, error)
    # The squared norm of the mean of the rows that are looked at is too large by the share of q.
    full = max(0.0, (_squared(total) / count**2 - here * single) / (1 - here))
    found = (1 - there) * full + there * single
    if found <= 0.0:
        return Estimate(0.0, float("inf"))
    by_single = abs(there - here * (1 - there) / (1 - here)) * single * error
    by_full = 2**0.5 * here * single * (1 - there) / (1 - here)
    return Estimate(found, math.hypot(by_single, by_full) / found)


def _share_of_single(drawn: int, rows: int) -> float:
    """Returns what the mean gradient of some rows of all has of q in its expected squared norm; ‖ḡ‖² has the rest."""
    return (rows - drawn) / max(1, rows - 1) / drawn


def mean_of(values: list[float]) -> Estimate:
    """Returns the mean of numbers, and its standard error as a share of the mean's size."""
    found = torch.tensor(values, dtype=torch.float64)
    mean = float(found.mean())
    spread = float(found.std()) if len(values) > 1 else abs(mean)
    return Estimate(mean, spread / len(values) ** 0.5 / abs(mean) if mean else float("inf"))


def _gradients(losses: Tensor, trained: list[nn.Parameter], signs: Tensor | None) -> tuple[Tensor, ...]:
    first = signs is None
    return torch.autograd.grad(
        losses,
        trained,
        torch.ones_like(losses) if first else signs,
        retain_graph=first,
        allow_unused=True,
        materialize_grads=True,
    )


def _squared(tensors: Iterable[Tensor]) -> float:
    return float(sum(t.double().square().sum() for t in (_dense(each) for each in tensors)))


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


@contextmanager
def _as_in_training(model: nn.Module, seed: int) -> Iterator[None]:
    """Sets training mode, with dropout by a seed; BatchNorm keeps its running statistics."""
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"]
    with modes_kept(model), torch.random.fork_rng(devices[:1]):
        torch.manual_seed(seed)
        model.train()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        yield
