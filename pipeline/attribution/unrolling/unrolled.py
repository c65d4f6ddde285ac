"""Exact differentiation of the mean query loss through recorded training.

Let λ be the derivative of the query loss with respect to the weights and optimizer state after a step. For each step,
from the last to the first:

    a ← adjoint of the gradient that entered the step, from λ
    ∂(query loss)/∂(weight of row i) += ⟨a, ∇L_i(θ_k)⟩ / divisor       for the rows i of the step's batch
    λ ← adjoint before the step, from λ, plus H_k a

H_k is the Hessian of the step's loss. The query gradient is added to λ at the weights where it is taken. If these are
the mean of the weights after the last n steps, 1/n of the gradient is added at each of these steps. The derivative with
respect to the weight of a row is the harm of the row: the amount by which the loss falls if the row is removed.

*Order smoothing* replaces the rows of the recorded batches by all rows: a is summed over a piece of training and
multiplied by the gradients of all rows at the middle of the piece, divided by N. This is valid for an optimizer whose
step is linear in the gradient. Adam's step isn't: the effect of one gradient depends on the other rows of the batch. It
is up to 1/ε times as large for a weight that has had no gradient yet, such as the embedding of a rare word. Under Adam,
the recorded batches are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.attribution.model.calls import Inputs
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

# The number of pieces of order smoothing.
PIECES = 24
# The largest growth of the adjoint at which the derivative counts as a prediction. In measurements, it predicted well
# with growth up to 4 and not at all from 400 on.
GROWTH_LIMIT = 10.0


@dataclass(frozen=True)
class UnrolledHarm:
    """The derivative of the mean query loss with respect to the rows' weights.

    Attributes:
        harm: float64 ``[rows]`` in nats. If it is positive, removing the row lowers the query loss.
        growth: the largest ‖λ‖ / ‖∇ query loss‖ of all steps, where λ is the adjoint of the weights. Above
            ``GROWTH_LIMIT`` training was chaotic: the derivative is right, but predicts nothing.
    """

    harm: Tensor
    growth: float

    @property
    def chaotic(self) -> bool:
        """Whether the growth is above ``GROWTH_LIMIT``, or isn't a number."""
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
    """Differentiates the mean query loss through the recorded training.

    Args:
        model: the model, built as for training. Its weights and modes are restored at the end.
        replay: the recording.
        objective: the training objective.
        rows: returns training rows by their numbers, as they were in training, with their weights.
        query: batches of (inputs, labels) whose mean loss is differentiated, at the recording's tail average.
        query_objective: the objective of the queries; None is the training objective.
        pieces: the number of pieces of order smoothing. 0 uses the recorded batches, None is ``smoothing_pieces``.

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
    """Returns the default number of pieces of order smoothing.

    Args:
        linear: whether the optimizer's step is linear in the gradient.
    """
    return PIECES if linear else 0


def unrolled_cost(epochs: float, pieces: int = PIECES) -> float:
    """Returns the cost of ``unrolled_harm``, in units of the cost of the training.

    The replay costs one training, the backward recursion about two, and each piece of order smoothing ⅔ of a pass over
    the rows.

    Args:
        epochs: the number of passes over the rows in training.
        pieces: the number of pieces of order smoothing.
    """
    return 3.0 + pieces * (2 / 3) / epochs


@dataclass
class _Backwards:
    """The backward recursion through a replay.

    Attributes:
        model: the model.
        replay: the recording.
        objective: the training objective.
        rows: returns training rows by their numbers.
        vector: the order of the parameters in vectors.
        gradient: ``[parameters]``, the gradient of the mean query loss.
        pieces: the number of pieces of order smoothing; 0 uses the recorded batches.
    """

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
        starts = _smoothing_starts(replay.steps, self.pieces)
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
        """Returns (⟨direction, ∇L_i⟩ / divisor of the rows, float64; the step's Hessian times the direction)."""
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


def _smoothing_starts(steps: int, pieces: int) -> set[int]:
    """Returns the first steps, counted from 0, of at most ``pieces`` equal pieces of training."""
    return {steps * piece // pieces for piece in range(pieces)}
