"""Smoothed unrolling: the recursion of ``unrolled.py`` at the mean weights of windows of training.

Random batches replace the recorded batches, and the Gauss–Newton matrix replaces the Hessian. Nothing is therefore
replayed, and the adjoint stays bounded where that of exact unrolling explodes.

Adam's second moments are held at their mean over a window, but at least at a share of their mean over training. Without
this limit, a weight that has had no gradient yet, such as the embedding of a rare word, would move up to 1/ε times as
far.
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
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.derivatives import RowSource, all_row_products, mean_loss_gradient
from pipeline.attribution.trajectory.weights import RunningMean, load_weights, restore_weights
from pipeline.attribution.unrolling.unrolled import UnrolledHarm
from pipeline.attribution.unrolling.updates import (
    Adjoint,
    StepPoint,
    UpdateGroup,
    UpdateRule,
    adjoint,
    update_rule,
    vector_groups,
)
from pipeline.attribution.unrolling.vectors import ParameterVector
from pipeline.attribution.unrolling.window_recorder import (
    SECOND_MOMENT,
    WINDOWS_TAIL_NAME,
    read_record,
    window_path,
)

# The smallest value of a second moment, as a share of its mean over training.
LEAST_MOMENT = 0.01


@dataclass(frozen=True)
class WindowMeans:
    """A recording of ``WindowRecorder``.

    Attributes:
        directory: the folder of the recording.
        optimizer: the name of the optimizer's class.
        groups: ``updates.group_records`` of the optimizer.
        steps: T, the number of steps.
        train_rows: N, the number of training rows.
        batch_size: the number of rows of a batch.
        tail_steps: the number of last steps over which the weights of the query are averaged; 1 for the final weights.
        starts: the first step of each window, counted from 0, ascending.
        rates: float64 ``[steps, groups]``, the learning rates.
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
    def load(cls, directory: str | Path) -> WindowMeans:
        """Reads the record and the learning rates. Weights are read later, when they are needed.

        Args:
            directory: the folder of the recording.

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
        """Returns the order of the parameters in vectors, group by group."""
        return ParameterVector(model, [group["parameters"] for group in self.groups])

    def load_query_point(self, model: nn.Module) -> None:
        """Loads the weights of the query: the tail average."""
        restore_weights(model, load_weights(self.directory / WINDOWS_TAIL_NAME), self.directory)

    def load_window(self, model: nn.Module, window: int) -> Mapping[str, Tensor]:
        """Loads the mean weights of a window, and returns parameter -> Adam's mean second moment."""
        weights, moments = self._read(window)
        restore_weights(model, weights, window_path(self.directory, window))
        return moments

    def mean_moments(self) -> Mapping[str, Tensor]:
        """Returns parameter -> Adam's second moment, the mean over all windows; it is empty for another optimizer."""
        if SECOND_MOMENT not in self.rule.slots:
            return {}
        mean = RunningMean()
        for window in range(len(self.starts)):
            mean.add(self._read(window)[1])
        return mean.mean()

    def _read(self, window: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the means over a window: (weights and buffers, Adam's second moments)."""
        found: dict[str, dict[str, Tensor]] = {"model": {}, SECOND_MOMENT: {}}
        for name, tensor in load_weights(window_path(self.directory, window)).items():
            kind, own = name.split("/", 1)
            found[kind][own] = tensor
        return found["model"], found[SECOND_MOMENT]


def unrolled_gauss_newton_harm(
    model: nn.Module,
    windows: WindowMeans,
    objective: Objective,
    rows: RowSource,
    query: Iterable[tuple[Inputs, Tensor]],
    *,
    seed: int = 0,
) -> UnrolledHarm:
    """Computes the smoothed derivative of the mean query loss with respect to the rows' weights.

    Args:
        model: the model, built as for training. Its weights are restored at the end.
        windows: the recording.
        objective: the objective of training and of the queries.
        rows: returns training rows by their numbers, with their labels and weights.
        query: batches of (inputs, labels) whose mean loss is differentiated, at the tail average.
        seed: the seed of the random batches.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        windows.load_query_point(model)
        vector = windows.vector(model)
        gradient = vector.flatten(mean_loss_gradient(model, objective, query))
        moments = windows.mean_moments()
        return _Smoothed(model, windows, objective, rows, vector, gradient, seed, moments).harm()
    finally:
        model.load_state_dict(before)


def random_batches(train_rows: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yields row numbers int64 ``[batch_size]`` without end, in a new random order for every epoch.

    A smaller last batch of an epoch is skipped.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        for batch in torch.randperm(train_rows, generator=generator).split(batch_size):
            if len(batch) == min(batch_size, train_rows):
                yield batch


@dataclass(frozen=True)
class _Smoothed:
    """The backward recursion over windows of training.

    Attributes:
        model: the model.
        windows: the recording.
        objective: the training objective.
        rows: returns training rows by their numbers.
        vector: the order of the parameters in vectors.
        gradient: ``[parameters]``, the gradient of the mean query loss.
        seed: the seed of the random batches.
        moments: parameter -> Adam's second moment, the mean over training.
    """

    model: nn.Module
    windows: WindowMeans
    objective: Objective
    rows: RowSource
    vector: ParameterVector
    gradient: Tensor
    seed: int
    moments: Mapping[str, Tensor]

    def harm(self) -> UnrolledHarm:
        windows, zeros = self.windows, torch.zeros_like(self.gradient)
        groups = vector_groups(self.vector, windows.groups)
        batches = random_batches(windows.train_rows, windows.batch_size, self.seed)
        late = Adjoint(zeros, dict.fromkeys(windows.rule.slots, zeros))
        harm, largest = torch.zeros(windows.train_rows, dtype=torch.float64), 0.0
        bounds = [*windows.starts, windows.steps]
        for window in range(len(windows.starts) - 1, -1, -1):
            mean = self._mean_point(windows.load_window(self.model, window), groups)
            parameters, summed = self.vector.unflatten(mean.weights), zeros.clone()
            for step in range(bounds[window + 1] - 1, bounds[window] - 1, -1):
                if step >= windows.steps - windows.tail_steps:
                    late = Adjoint(late.weights + self.gradient / windows.tail_steps, late.slots)
                point = replace(mean, rates=tuple(windows.rates[step].tolist()), number=step + 1)
                entered, late = adjoint(windows.rule, groups, point, late)
                late = Adjoint(late.weights + self._product(next(batches), parameters, entered), late.slots)
                summed += entered
                largest = max(largest, float(late.weights.norm() / self.gradient.norm()))
            products = all_row_products(
                self.model,
                self.objective,
                self.rows,
                windows.train_rows,
                parameters,
                self.vector.unflatten(summed),
            )
            harm += products / windows.train_rows
        return UnrolledHarm(harm, largest if torch.isfinite(harm).all() else float("inf"))

    def _product(self, batch: Tensor, parameters: dict[str, Tensor], direction: Tensor) -> Tensor:
        """Returns the mean Gauss–Newton matrix of a batch times the direction, ``[parameters]``."""
        rows, tangent = self.rows(batch), self.vector.unflatten(direction)
        product = parameter_product(self.model, self.objective, rows, parameters, tangent)
        return self.vector.flatten(product) / len(batch)

    def _mean_point(self, moments: Mapping[str, Tensor], groups: list[UpdateGroup]) -> StepPoint:
        """Returns a step at the mean weights of a window in which Adam's second moments stay at their mean.

        Adam's first moment and the gradient including L2 regularisation are 0 in this step, so its derivative with
        respect to the second moments is 0. The step multiplies the second moments by β₂, so they are divided by β₂
        beforehand. Under ``Adam``, the gradient of the step is the one that cancels L2 regularisation.

        Args:
            moments: parameter -> Adam's second moment, the mean over the window.
            groups: the parameter groups.
        """
        parameters = dict(self.model.named_parameters())
        weights = self.vector.flatten(parameters)
        zeros = torch.zeros_like(weights)
        slots = dict.fromkeys(self.windows.rule.slots, zeros)
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
