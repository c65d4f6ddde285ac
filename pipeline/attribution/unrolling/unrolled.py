"""Exact differentiation of the mean query loss through recorded training.

Backwards over the steps, with λ = ∂(query loss)/∂(weights and optimizer state) after a step:

    a ← λ through the optimizer's step, as the adjoint of the gradient that entered
    ∂(query loss)/∂(weight of row i) += ⟨a, ∇L_i(θ_k)⟩ / divisor       for rows of the step's batch
    λ ← λ through the step, + H_k a

The query's gradient enters at its weights: 1/n of it at each of the last n steps where they are the mean of those
iterates. The derivative with respect to a row's weight is its harm: what removing it would lower the loss by.

*Order smoothing* puts the sum of a over a piece of training times all rows' gradients at the piece's middle, divided
by N, in place of the rows that happened to be in each batch. That takes a step which is linear in its gradient: what
Adam makes of one depends on the others of its batch and is 1/ε-fold where a weight never had any, as the embedding of
a rare word. Under Adam the recorded order counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution.model.capture import Inputs
from pipeline.attribution.model.modes import modes_kept
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.derivatives import (
    RowSource,
    all_row_products,
    mean_loss_gradient,
    row_and_hessian_products,
)
from pipeline.attribution.unrolling.replay import Replay, ReplayedStep, set_random_state
from pipeline.attribution.unrolling.updates import Adjoint, adjoint, vector_groups
from pipeline.attribution.unrolling.vectors import ParameterVector

# Pieces of order smoothing.
PIECES = 24
# Growth of the adjoint up to which the derivative predicts anything: up to 4 it did, from 400 it did not (measured).
GROWTH_LIMIT = 10.0


@dataclass(frozen=True)
class UnrolledHarm:
    """The derivative of the mean query loss with respect to the rows' weights.

    Attributes:
        harm: ``[rows]`` nats, float64, > 0: removing the row lowers the query loss.
        growth: max over the steps of ‖λ‖ / ‖∇ query loss‖. Above ``GROWTH_LIMIT`` training was chaotic: the
            derivative is right and predicts nothing.
    """

    harm: Tensor
    growth: float

    @property
    def chaotic(self) -> bool:
        return not self.growth <= GROWTH_LIMIT


def unrolled_harm(
    model: nn.Module,
    replay: Replay,
    objective: Objective,
    rows: RowSource,
    query: Iterable[tuple[Inputs, Tensor]],
    *,
    query_objective: Objective | None = None,
    pieces: int | None = None,
) -> UnrolledHarm:
    """Differentiates through the recorded training.

    Args:
        model: built as for training; its weights and modes are put back at the end.
        replay: the recording.
        objective: what was trained on.
        rows: gives training rows by their numbers, as they were in training, with their weights.
        query: rows whose mean loss is differentiated, at the recording's tail average.
        query_objective: the query's loss; None means the objective's.
        pieces: of order smoothing; 0 differentiates with the recorded order, None is ``smoothing_pieces``.

    Raises:
        ReplayError: training doesn't repeat bit for bit.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with modes_kept(model):
            replay.load_query_point(model)
            vector = replay.vector(model)
            gradient = vector.flatten(mean_loss_gradient(model, query_objective or objective, query))
            smoothed = smoothing_pieces(replay.rule.linear) if pieces is None else pieces
            return _Backwards(model, replay, objective, rows, vector, gradient, smoothed).harm()
    finally:
        model.load_state_dict(before)


def smoothing_pieces(linear: bool) -> int:
    """Pieces of order smoothing where nobody says otherwise. ``linear``: whether a step is linear in its gradient."""
    return PIECES if linear else 0


def unrolled_cost(epochs: float, pieces: int = PIECES) -> float:
    """What ``unrolled_harm`` costs after a training of so many passes over the rows, in trainings: one repetition,
    about two backwards, and ⅔ of a pass per piece."""
    return 3.0 + pieces * (2 / 3) / epochs


@dataclass
class _Backwards:
    """The recursion's state."""

    model: nn.Module
    replay: Replay
    objective: Objective
    rows: RowSource
    vector: ParameterVector
    gradient: Tensor
    pieces: int

    def harm(self) -> UnrolledHarm:
        replay, total = self.replay, self.replay.train_rows
        groups = vector_groups(self.vector, replay.groups)
        zeros = torch.zeros_like(self.gradient)
        late = Adjoint(zeros, dict.fromkeys(replay.rule.slots, zeros))
        harm = torch.zeros(total, dtype=torch.float64)
        starts = smoothing_starts(replay.steps, self.pieces)
        summed, middle, middle_step, size, largest = zeros.clone(), zeros, -1, self.gradient.norm(), 0.0
        for step in self._steps():
            if step.step >= replay.steps - replay.tail_steps:
                late = Adjoint(late.weights + self.gradient / replay.tail_steps, late.slots)
            entered, late = adjoint(replay.rule, groups, step.point, late)
            products, hessian = self._products(step, entered)
            late = Adjoint(late.weights + hessian, late.slots)
            largest = max(largest, float(late.weights.norm() / size))
            if not self.pieces:
                harm.index_add_(0, step.rows, products)
                continue
            summed += entered * (len(step.rows) / step.divisor)
            if middle_step < 0:
                start = max(s for s in starts if s <= step.step)
                middle_step = (start + step.step + 1) // 2
            if step.step == middle_step:
                middle = step.point.weights
            if step.step in starts:
                harm += self._all_products(middle, summed) / total
                summed, middle_step = torch.zeros_like(summed), -1
        return UnrolledHarm(harm, largest if torch.isfinite(harm).all() else float("inf"))

    def _steps(self) -> Iterator[ReplayedStep]:
        for piece in self.replay.pieces_backwards(self.model, self.objective, self.rows):
            while piece:
                yield piece.pop()

    def _products(self, step: ReplayedStep, direction: Tensor) -> tuple[Tensor, Tensor]:
        """(⟨direction, ∇L_i⟩ / divisor of the batch's rows float64, the step's Hessian times the direction)."""
        device = direction.device
        with torch.random.fork_rng(
            [device] if device.type == "cuda" else [], enabled=step.random is not None
        ):
            if step.random is not None:
                set_random_state(self.model, step.random)
            products, hessian = row_and_hessian_products(
                self.model,
                self.objective,
                self.rows(step.rows),
                self.vector.unflatten(step.point.weights),
                self.vector.unflatten(direction),
            )
        return products.double().cpu() / step.divisor, self.vector.flatten(hessian) / step.divisor

    def _all_products(self, weights: Tensor, direction: Tensor) -> Tensor:
        return all_row_products(
            self.model,
            self.objective,
            self.rows,
            self.replay.train_rows,
            self.vector.unflatten(weights),
            self.vector.unflatten(direction),
        )


def smoothing_starts(steps: int, pieces: int) -> set[int]:
    """First steps, counted from 0, of at most ``pieces`` equal pieces of training."""
    return {steps * piece // pieces for piece in range(pieces)}
