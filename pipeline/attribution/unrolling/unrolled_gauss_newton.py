"""Smoothed unrolling: the recursion of ``unrolled`` over the mean weights of pieces of training.

Fresh random batches take the place of the recorded order and the Gauss–Newton matrix that of the Hessian, so nothing
is replayed and the adjoint stays bounded where exact unrolling explodes. Adam's second moments are held at their mean
in a piece, but at no less than a share of their mean over training: a weight that has had no gradient yet, as the
embedding of a rare word, would move 1/ε-fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.gauss_newton import parameter_product
from pipeline.attribution.errors import CheckpointError
from pipeline.attribution.model.capture import Inputs
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.derivatives import RowSource, all_row_products, mean_loss_gradient
from pipeline.attribution.trajectory.weights import RunningMean, load_weights, restore_weights
from pipeline.attribution.unrolling.piece_recorder import (
    PIECES_TAIL_NAME,
    SECOND_MOMENT,
    piece_path,
    read_record,
)
from pipeline.attribution.unrolling.unrolled import UnrolledHarm
from pipeline.attribution.unrolling.updates import (
    Adjoint,
    Group,
    StepPoint,
    UpdateRule,
    adjoint,
    update_rule,
    vector_groups,
)
from pipeline.attribution.unrolling.vectors import ParameterVector

# Share of its mean over training that a second moment is held at, at least.
LEAST_MOMENT = 0.01


@dataclass(frozen=True)
class Pieces:
    """A recording of ``PieceRecorder``.

    Attributes:
        directory: where it lies.
        optimizer, groups: the class's name; options and parameters of its groups.
        steps, train_rows, batch_size: T, N, and the rows of a batch.
        tail_steps: over how many last iterates the query's weights are averaged; 1 for the final weights.
        starts: the pieces' first steps, counted from 0, ascending.
        rates: learning rates ``[steps, groups]``.
    """

    directory: Path
    optimizer: str
    groups: list[dict[str, Any]]
    steps: int
    train_rows: int
    batch_size: int
    tail_steps: int
    starts: list[int]
    rates: Tensor

    @classmethod
    def load(cls, directory: str | Path) -> Pieces:
        """Reads what was noted; weights are read when they are needed.

        Raises:
            CheckpointError: the recording is missing or damaged.
        """
        directory = Path(directory)
        record, rates = read_record(directory)
        try:
            return cls(directory=directory, rates=rates, **record)
        except TypeError as error:
            raise CheckpointError(
                f"The recording at {directory} is damaged ({error}).", "Train again to record it anew."
            ) from error

    @property
    def rule(self) -> UpdateRule:
        return update_rule(self.optimizer)

    def vector(self, model: nn.Module) -> ParameterVector:
        """The order of the parameters in vectors, by group."""
        return ParameterVector(model, [group["parameters"] for group in self.groups])

    def load_query_point(self, model: nn.Module) -> None:
        """Loads the tail average."""
        restore_weights(model, load_weights(self.directory / PIECES_TAIL_NAME), self.directory)

    def load_piece(self, model: nn.Module, piece: int) -> Mapping[str, Tensor]:
        """Loads a piece's mean weights; returns Adam's mean second moments by parameter."""
        weights, moments = self._read(piece)
        restore_weights(model, weights, piece_path(self.directory, piece))
        return moments

    def mean_moments(self) -> Mapping[str, Tensor]:
        """Adam's second moments by parameter, means over the pieces; none of another optimizer."""
        if SECOND_MOMENT not in self.rule.slots:
            return {}
        mean = RunningMean()
        for piece in range(len(self.starts)):
            mean.add(self._read(piece)[1])
        return mean.mean()

    def _read(self, piece: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(weights, Adam's second moments), means over a piece."""
        found: dict[str, dict[str, Tensor]] = {"model": {}, SECOND_MOMENT: {}}
        for name, tensor in load_weights(piece_path(self.directory, piece)).items():
            kind, own = name.split("/", 1)
            found[kind][own] = tensor
        return found["model"], found[SECOND_MOMENT]


def unrolled_gauss_newton_harm(
    model: nn.Module,
    pieces: Pieces,
    objective: Objective,
    rows: RowSource,
    query: Iterable[tuple[Inputs, Tensor]],
    *,
    seed: int = 0,
) -> UnrolledHarm:
    """The smoothed derivative of the mean query loss with respect to the rows' weights.

    Args:
        model: built as for training; its weights are put back at the end.
        rows: gives training rows by their numbers, with their labels and weights.
        query: rows whose mean loss is differentiated, at the tail average.
        seed: of the random batches.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        pieces.load_query_point(model)
        vector = pieces.vector(model)
        gradient = vector.flatten(mean_loss_gradient(model, objective, query))
        moments = pieces.mean_moments()
        return _Smoothed(model, pieces, objective, rows, vector, gradient, seed, moments).harm()
    finally:
        model.load_state_dict(before)


def random_batches(train_rows: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Row numbers ``[batch_size]``, epoch by epoch in random orders, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for batch in torch.randperm(train_rows, generator=generator).split(batch_size):
            if len(batch) == min(batch_size, train_rows):
                yield batch


@dataclass(frozen=True)
class _Smoothed:
    """The recursion's fixed parts. ``moments``: Adam's, means over training."""

    model: nn.Module
    pieces: Pieces
    objective: Objective
    rows: RowSource
    vector: ParameterVector
    gradient: Tensor
    seed: int
    moments: Mapping[str, Tensor]

    def harm(self) -> UnrolledHarm:
        pieces, zeros = self.pieces, torch.zeros_like(self.gradient)
        groups = vector_groups(self.vector, pieces.groups)
        batches = random_batches(pieces.train_rows, pieces.batch_size, self.seed)
        late = Adjoint(zeros, dict.fromkeys(pieces.rule.slots, zeros))
        harm, largest = torch.zeros(pieces.train_rows, dtype=torch.float64), 0.0
        bounds = [*pieces.starts, pieces.steps]
        for piece in range(len(pieces.starts) - 1, -1, -1):
            mean = self._mean_point(pieces.load_piece(self.model, piece), groups)
            parameters, summed = self.vector.unflatten(mean.weights), zeros.clone()
            for step in range(bounds[piece + 1] - 1, bounds[piece] - 1, -1):
                if step >= pieces.steps - pieces.tail_steps:
                    late = Adjoint(late.weights + self.gradient / pieces.tail_steps, late.slots)
                point = replace(mean, rates=tuple(pieces.rates[step].tolist()), number=step + 1)
                entered, late = adjoint(pieces.rule, groups, point, late)
                late = Adjoint(late.weights + self._product(next(batches), parameters, entered), late.slots)
                summed += entered
                largest = max(largest, float(late.weights.norm() / self.gradient.norm()))
            products = all_row_products(
                self.model,
                self.objective,
                self.rows,
                pieces.train_rows,
                parameters,
                self.vector.unflatten(summed),
            )
            harm += products / pieces.train_rows
        return UnrolledHarm(harm, largest if torch.isfinite(harm).all() else float("inf"))

    def _product(self, batch: Tensor, parameters: dict[str, Tensor], direction: Tensor) -> Tensor:
        """The batch's mean Gauss–Newton matrix times the direction."""
        rows, tangent = self.rows(batch), self.vector.unflatten(direction)
        product = parameter_product(self.model, self.objective, rows, parameters, tangent)
        return self.vector.flatten(product) / len(batch)

    def _mean_point(self, moments: Mapping[str, Tensor], groups: list[Group]) -> StepPoint:
        """A step at the piece's mean weights at which second moments stay at their mean, whatever changes.

        Where Adam's mean is 0 and no gradient enters, its step doesn't depend on them; it multiplies them with β₂,
        and the gradient here cancels coupled decay.
        """
        parameters = dict(self.model.named_parameters())
        weights = self.vector.flatten(parameters)
        zeros = torch.zeros_like(weights)
        slots = dict.fromkeys(self.pieces.rule.slots, zeros)
        if SECOND_MOMENT not in slots:
            return StepPoint(weights, slots, zeros, (), 0)
        here, everywhere = (
            self.vector.flatten({name: each.get(name, torch.zeros_like(p)) for name, p in parameters.items()})
            for each in (moments, self.moments)
        )
        slots[SECOND_MOMENT], gradient = torch.maximum(here, LEAST_MOMENT * everywhere), zeros.clone()
        for group in groups:
            slots[SECOND_MOMENT][group.place] /= group.options["betas"][1]
            if not group.options.get("decoupled_weight_decay", False):
                gradient[group.place] -= group.options["weight_decay"] * weights[group.place]
        return StepPoint(weights, slots, gradient, (), 0)
