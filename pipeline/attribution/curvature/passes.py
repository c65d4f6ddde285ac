"""The two passes over training rows, at each checkpoint of a segment, by which EK-FAC factors are fitted (``fit.py``).

Both passes take a group of batches and visit it at all checkpoints before they take the next group. Sums that depend on
inputs alone are therefore computed once per batch. A process that runs both passes keeps as many gradients of the first
pass for the second as fit in memory.
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
    fisher_gradients,
    local_bases,
    preconditioned,
    sampled_rows,
)
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.errors import NonFiniteError
from pipeline.attribution.gradients.layer_gradients import Eigenbasis
from pipeline.attribution.gradients.shared_inputs import SharedInputs
from pipeline.attribution.model.calls import Inputs
from pipeline.attribution.objectives import Objective
from pipeline.attribution.options import WIDEST_OUTPUTS
from pipeline.attribution.rows.batch import Batch

# About the most bytes of a group of batches: their inputs, and the sums that are deferred to the last checkpoint.
GROUP_BYTES = 256 << 20


@dataclass(frozen=True)
class FactorTask:
    """The inputs of both passes besides the batches.

    Attributes:
        model: the model; ``load_checkpoint`` changes it in place.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        objective: the training objective.
        checkpoints: the places of the segment's checkpoints in the trajectory.
        seed: the seed of the labels drawn, as in ``factors.covariance_sums``.
        fisher: ``mc`` or ``exact``, as in ``factors.covariance_sums``.
        preconditioners: layer -> its preconditioner in the segment, from ``preconditioners.segment_preconditioners``.
        group_bytes: the size of a group of batches; None is ``GROUP_BYTES``.
        widest_outputs: as in ``factors.covariance_sums``.
    """

    model: nn.Module
    load_checkpoint: Callable[[int], None]
    objective: Objective
    checkpoints: Sequence[int]
    seed: int = 0
    fisher: str = "mc"
    preconditioners: Mapping[str, Preconditioner] = field(default_factory=dict)
    group_bytes: int | None = None
    widest_outputs: int = WIDEST_OUTPUTS

    def local_preconditioners(self) -> dict[str, Preconditioner]:
        """Returns the preconditioners in the dtype and on the device of the model's parameters."""
        like = next(parameter for parameter in self.model.parameters() if parameter.is_floating_point())
        return {name: preconditioner.to(like) for name, preconditioner in self.preconditioners.items()}


@dataclass
class KeptGradients:
    """Gradients of the first pass, by batch and checkpoint, up to ``budget`` bytes."""

    budget: int = 0
    _visits: dict[tuple[int, int], list[Visited]] = field(default_factory=dict)

    def keep(self, key: tuple[int, int], visited: Iterator[Visited]) -> Iterable[Visited]:
        """Returns the same gradients, and keeps them if they fit."""
        if self.budget <= 0:
            return visited
        found = list(visited)
        self.budget -= sum(visit.gradients.nbytes for visit in found)
        if self.budget >= 0:
            self._visits[key] = found
        return found

    def take(self, key: tuple[int, int]) -> list[Visited] | None:
        """Returns the gradients kept for a batch and checkpoint, and forgets them; None if there are none."""
        return self._visits.pop(key, None)


def fit_covariances(
    task: FactorTask, batches: Iterable[Batch], *, sample: float = 1.0, kept: KeptGradients | None = None
) -> FactorSums:
    """The first pass: sums the covariances over the batches and checkpoints.

    Args:
        task: the inputs of both passes.
        batches: the training rows.
        sample: the share of rows to use, the same rows at every checkpoint. The choice depends on the rows' ids and
            the seed. The sums are scaled up, so they estimate those over all rows.
        kept: keeps gradients for ``fit_eigenvalues``; None keeps none.

    Raises:
        NonFiniteError: a covariance has a NaN or an infinity. The message names the layer, the checkpoint and the rows.
    """
    sums, examples = FactorSums({}, {}, 0), 0
    kept, preconditioners = KeptGradients() if kept is None else kept, task.local_preconditioners()
    for visit in _visits(task, sampled_batches(batches, sample, task.seed)):
        batch = visit.batch
        gradients = preconditioned(_gradients(task, visit), preconditioners, len(batch.row_ids))
        found = kept.keep(visit.key, gradients)
        add_covariances(sums, found, batch.weights, visit.shared, widest_outputs=task.widest_outputs)
        _check_finite(visit, input=sums.input, gradient=sums.gradient)
        if visit.last:
            scale = None if batch.weights is None else batch.weights.sqrt()
            add_into(sums.input, visit.shared.covariances(scale))
            examples += visit.rows * len(task.checkpoints)
    if sample < 1.0:
        for value in (*sums.input.values(), *sums.gradient.values()):
            value /= sample
    return FactorSums(sums.input, sums.gradient, examples)


def fit_eigenvalues(
    task: FactorTask,
    batches: Iterable[Batch],
    bases: Mapping[str, Eigenbasis],
    *,
    kept: KeptGradients | None = None,
) -> dict[str, Tensor]:
    """The second pass: sums the squares of the gradients in the eigenbasis over the batches and checkpoints.

    Args:
        task: the inputs of both passes.
        batches: the training rows, in the same batches as in the first pass if ``kept`` is given.
        bases: layer -> eigenbasis.
        kept: the gradients that ``fit_covariances`` kept.

    Returns:
        layer -> Σ (Q_Sᵀ G Q_A)², float64 ``[out, in]``.

    Raises:
        NonFiniteError: a sum has a NaN or an infinity. The message names the layer, the checkpoint and the rows.
    """
    sums: dict[str, Tensor] = {}
    local, preconditioners = local_bases(bases, task.model), task.local_preconditioners()
    kept = KeptGradients() if kept is None else kept
    for visit in _visits(task, ((batch, len(batch.row_ids)) for batch in batches)):
        gradients: Iterable[Visited] | None = kept.take(visit.key)
        if gradients is None:
            gradients = preconditioned(_gradients(task, visit), preconditioners, len(visit.batch.row_ids))
        add_squares(sums, gradients, local, visit.shared)
        if visit.last:
            add_into(sums, visit.shared.squares(local))
        _check_finite(visit, squares=sums)
    return sums


def _check_finite(visit: _Visit, **sums: Mapping[str, Tensor]) -> None:
    """Raises NonFiniteError if a sum isn't finite. It is called after every visit, so it names the visit's batch."""
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
    """One batch at one checkpoint.

    Attributes:
        place: the batch's number.
        checkpoint: the checkpoint's place in the trajectory.
        batch: the rows to use.
        rows: the number of rows of which ``batch`` is a sample.
        shared: the sums that are deferred to the batch's last visit.
        last: whether this is the batch's last visit.
    """

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
    """Yields every batch at every checkpoint, in groups of about the task's ``group_bytes``.

    The model has the checkpoint's weights when a visit is yielded.

    Args:
        task: the inputs of both passes.
        batches: (batch, number of rows of which it is a sample).
    """
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
    """Yields the gradients of a visit. The model must have the weights of the visit's checkpoint."""
    batch = visit.batch
    return fisher_gradients(
        task.model,
        task.objective,
        batch.inputs,
        batch.row_ids,
        seed=task.seed,
        checkpoint=visit.checkpoint,
        fisher=task.fisher,
        weights=batch.weights,
        given=batch.labels,
    )


def sampled_batches(batches: Iterable[Batch], share: float, seed: int) -> Iterator[tuple[Batch, int]]:
    """Yields (sampled rows, number of rows) of each batch. The choice depends on the rows' ids and the seed."""
    for batch in batches:
        if share == 1.0:
            yield batch, len(batch.row_ids)
            continue
        yield batch.select(sampled_rows(batch.row_ids, seed=seed, share=share)), len(batch.row_ids)


def _nbytes(inputs: Inputs) -> int:
    return inputs.nbytes if isinstance(inputs, Tensor) else sum(value.nbytes for value in inputs.values())
