"""Fits the EK-FAC factors of a segment in this process: two passes over the training rows per checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.attribution.eigenbases import eigenbases
from pipeline.attribution.factors import FactorSums, add_tensors, covariance_sums, spectrum_sums
from pipeline.attribution.objectives import Objective
from pipeline.attribution.scores import Batch
from pipeline.attribution.shared_inputs import SharedInputs
from pipeline.attribution.spectrum import Spectrum
from pipeline.attribution.transport import PreparedSegment

# Bytes of results that checkpoints share and that may be held while the checkpoints are visited.
SHARED_BYTES = 256 << 20


def prepare_segment(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batches: Iterable[Batch],
    checkpoints: Sequence[int],
    spectrum: Spectrum,
    *,
    seed: int = 0,
    labels: str = "sampled",
    covariance_sample: float = 1.0,
    widest: int | None = None,
) -> PreparedSegment:
    """Eigenbases and eigenvalues of one segment.

    Args:
        model: changed in place by ``load_checkpoint``.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        batches: the training rows; iterated twice per checkpoint.
        checkpoints: places of the segment's checkpoints in the trajectory.
        spectrum: what the segment does to a direction of a given eigenvalue.
        seed, labels: as in ``factors.covariance_sums``.
        covariance_sample: the share of rows that the eigenvectors, not the eigenvalues, are fitted on.
        widest: as in ``eigenbases.eigenbases``.
    """
    options: dict[str, Any] = {"seed": seed, "labels": labels}
    sums = FactorSums({}, {}, 0)
    for checkpoint, batch, shared in _visits(load_checkpoint, batches, checkpoints):
        given = {"checkpoint": checkpoint, "weights": batch.weights, "shared": shared} | options
        sums += covariance_sums(
            model, objective, batch.inputs, batch.row_ids, sample=covariance_sample, **given
        )
    bases = eigenbases(sums, widest)
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    local = {name: basis.to(like) for name, basis in bases.items()}
    squares: dict[str, Tensor] = {}
    for checkpoint, batch, shared in _visits(load_checkpoint, batches, checkpoints):
        given = {"checkpoint": checkpoint, "weights": batch.weights, "shared": shared} | options
        squares = add_tensors(
            squares, spectrum_sums(model, objective, batch.inputs, batch.row_ids, local, **given)
        )
    eigenvalues = {name: value / sums.examples for name, value in squares.items()}
    return PreparedSegment(tuple(checkpoints), bases, eigenvalues, spectrum)


def _visits(
    load_checkpoint: Callable[[int], None], batches: Iterable[Batch], checkpoints: Sequence[int]
) -> Iterator[tuple[int, Batch, SharedInputs]]:
    """Every batch at every checkpoint, in groups of batches whose shared results fit in ``SHARED_BYTES``."""
    waiting, finished = iter(batches), False
    while not finished:
        group: list[tuple[Batch, SharedInputs]] = []
        load_checkpoint(checkpoints[0])
        while sum(shared.nbytes for _, shared in group) < SHARED_BYTES:
            batch = next(waiting, None)
            if batch is None:
                finished = True
                break
            group.append((batch, SharedInputs()))
            yield checkpoints[0], *group[-1]
        for checkpoint in checkpoints[1:]:
            load_checkpoint(checkpoint)
            for batch, shared in group:
                yield checkpoint, batch, shared
