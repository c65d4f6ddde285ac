"""The two passes over training rows, at each checkpoint of a segment, by which EK-FAC factors are fitted (``fit``).

Both passes visit a batch at all checkpoints before the next, in groups, so that what depends on inputs alone is
computed once per batch. A process that runs both passes keeps gradients of the first for the second, as many as fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.factor_sums import FactorSums, add_into
from pipeline.attribution.curvature.factors import (
    Visited,
    add_covariances,
    add_squares,
    conditioned,
    fisher_gradients,
    local_bases,
    sampled_rows,
)
from pipeline.attribution.curvature.preconditioners import Conditioner
from pipeline.attribution.errors import NonFiniteError
from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.gradients.shared_inputs import SharedInputs
from pipeline.attribution.model.capture import Inputs
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch

# Bytes of a group of batches, with what their checkpoints share, that may be held while checkpoints are visited.
GROUP_BYTES = 256 << 20


@dataclass(frozen=True)
class FactorTask:
    """What both passes need besides the batches.

    Attributes:
        model: changed in place by ``load_checkpoint``.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        checkpoints: places of the segment's checkpoints in the trajectory.
        seed, labels: as in ``factors.covariance_sums``.
        conditioners: layer -> what the segment's optimizer does to it, from ``preconditioners.segment_conditioners``.
        group_bytes: of batches, with what their checkpoints share, held while checkpoints are visited; None:
            ``GROUP_BYTES``.
    """

    model: nn.Module
    load_checkpoint: Callable[[int], None]
    objective: Objective
    checkpoints: Sequence[int]
    seed: int = 0
    labels: str = "sampled"
    conditioners: Mapping[str, Conditioner] = field(default_factory=dict)
    group_bytes: int | None = None

    def local_conditioners(self) -> dict[str, Conditioner]:
        """In the precision and on the device of the model's parameters."""
        like = next(parameter for parameter in self.model.parameters() if parameter.is_floating_point())
        return {name: conditioner.to(like) for name, conditioner in self.conditioners.items()}


@dataclass
class KeptGradients:
    """Gradients of visits, up to ``budget`` bytes, by batch and checkpoint."""

    budget: int = 0
    _visits: dict[tuple[int, int], list[Visited]] = field(default_factory=dict)

    def keep(self, key: tuple[int, int], visited: Iterator[Visited]) -> Iterable[Visited]:
        """The same gradients, kept if they fit."""
        if self.budget <= 0:
            return visited
        found = list(visited)
        self.budget -= sum(visit.gradients.nbytes for visit in found)
        if self.budget >= 0:
            self._visits[key] = found
        return found

    def take(self, key: tuple[int, int]) -> list[Visited] | None:
        return self._visits.pop(key, None)


def fit_covariances(
    task: FactorTask, batches: Iterable[Batch], *, sample: float = 1.0, kept: KeptGradients | None = None
) -> FactorSums:
    """First pass: covariance sums over the batches and checkpoints.

    Args:
        sample: the share of rows to use, the same rows at every checkpoint; which ones depends on their ids
            and the seed. Sums are scaled up, so they estimate those of all rows.
        kept: where gradients are put for ``fit_spectrum``.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity; names the layer, the checkpoint and the rows.
    """
    sums, examples = FactorSums({}, {}, 0), 0
    kept, conditioners = KeptGradients() if kept is None else kept, task.local_conditioners()
    for visit in _visits(task, sampled_batches(batches, sample, task.seed)):
        batch = visit.batch
        gradients = conditioned(_gradients(task, visit), conditioners, len(batch.row_ids))
        add_covariances(sums, kept.keep(visit.key, gradients), batch.weights, visit.shared)
        _check_finite(visit, input=sums.input, gradient=sums.gradient)
        if visit.last:
            scale = None if batch.weights is None else batch.weights.sqrt()
            add_into(sums.input, visit.shared.covariances(scale))
            examples += visit.rows * len(task.checkpoints)
    if sample < 1.0:
        for value in (*sums.input.values(), *sums.gradient.values()):
            value /= sample
    return FactorSums(sums.input, sums.gradient, examples)


def fit_spectrum(
    task: FactorTask,
    batches: Iterable[Batch],
    bases: Mapping[str, Eigenbasis],
    *,
    kept: KeptGradients | None = None,
) -> dict[str, Tensor]:
    """Second pass: layer -> Σ (Q_Sᵀ G Q_A)² ``[out, in]`` over the batches and checkpoints, float64.

    Raises:
        NonFiniteError: a sum has a NaN or an infinity; names the layer, the checkpoint and the rows.
    """
    sums: dict[str, Tensor] = {}
    local, conditioners = local_bases(bases, task.model), task.local_conditioners()
    kept = KeptGradients() if kept is None else kept
    for visit in _visits(task, ((batch, len(batch.row_ids)) for batch in batches)):
        gradients: Iterable[Visited] | None = kept.take(visit.key)
        if gradients is None:
            gradients = conditioned(_gradients(task, visit), conditioners, len(visit.batch.row_ids))
        add_squares(sums, gradients, local, visit.shared)
        if visit.last:
            add_into(sums, visit.shared.squares(local))
        _check_finite(visit, squares=sums)
    return sums


def _check_finite(visit: _Visit, **sums: Mapping[str, Tensor]) -> None:
    """Raises NonFiniteError at the first visit after which a sum isn't finite: the row is in its batch."""
    flat = [(what, layer, value) for what, each in sums.items() for layer, value in each.items()]
    if not flat or bool(torch.isfinite(torch.stack([value.sum() for _, _, value in flat])).all()):
        return
    what, layer = next((what, layer) for what, layer, value in flat if not torch.isfinite(value.sum()))
    rows = visit.batch.row_ids
    raise NonFiniteError(
        f"The factor of layer {layer!r} ({what}) has a NaN or an infinity at checkpoint {visit.checkpoint}, in the "
        f"batch of rows {int(rows.min())} to {int(rows.max())}.",
        "Look for NaN in the data and for a training run that diverged.",
    )


@dataclass(frozen=True)
class _Visit:
    """One batch at one checkpoint. ``rows``: how many rows the batch stands for; ``last``: of the batch's visits."""

    place: int
    checkpoint: int
    batch: Batch
    rows: int
    shared: SharedInputs
    last: bool

    @property
    def key(self) -> tuple[int, int]:
        return self.place, self.checkpoint


def _visits(task: FactorTask, batches: Iterable[tuple[Batch, int]]) -> Iterator[_Visit]:
    """Every batch at every checkpoint, in groups of batches that fit in the task's bytes."""
    most = GROUP_BYTES if task.group_bytes is None else task.group_bytes
    waiting, finished, last = enumerate(batches), False, task.checkpoints[-1]
    while not finished:
        group: list[tuple[int, Batch, int, SharedInputs]] = []
        task.load_checkpoint(task.checkpoints[0])
        held = 0
        while held < most:
            found = next(waiting, None)
            if found is None:
                finished = True
                break
            place, (batch, rows) = found
            group.append((place, batch, rows, SharedInputs()))
            yield _Visit(place, task.checkpoints[0], batch, rows, group[-1][3], len(task.checkpoints) == 1)
            held += _nbytes(batch.inputs) + group[-1][3].nbytes
        for checkpoint in task.checkpoints[1:]:
            task.load_checkpoint(checkpoint)
            for place, batch, rows, shared in group:
                yield _Visit(place, checkpoint, batch, rows, shared, checkpoint == last)


def _gradients(task: FactorTask, visit: _Visit) -> Iterator[Visited]:
    """A forward and backward pass; the model must be loaded with the checkpoint's weights."""
    batch = visit.batch
    return fisher_gradients(
        task.model,
        task.objective,
        batch.inputs,
        batch.row_ids,
        seed=task.seed,
        checkpoint=visit.checkpoint,
        labels=task.labels,
        weights=batch.weights,
        given=batch.labels,
    )


def sampled_batches(batches: Iterable[Batch], share: float, seed: int) -> Iterator[tuple[Batch, int]]:
    """The sampled rows of each batch, and how many it had; which ones depends on their ids and the seed."""
    for batch in batches:
        if share == 1.0:
            yield batch, len(batch.row_ids)
            continue
        yield batch.select(sampled_rows(batch.row_ids, seed=seed, share=share)), len(batch.row_ids)


def _nbytes(inputs: Inputs) -> int:
    return inputs.nbytes if isinstance(inputs, Tensor) else sum(value.nbytes for value in inputs.values())
