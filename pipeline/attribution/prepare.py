"""Fits the EK-FAC factors of a segment in this process: two passes over the training rows per checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from pipeline.attribution.factors import FactorSums, add_tensors, covariance_sums, eigenbases, spectrum_sums
from pipeline.attribution.objectives import Objective
from pipeline.attribution.scores import Batch
from pipeline.attribution.spectrum import Spectrum
from pipeline.attribution.transport import PreparedSegment


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
) -> PreparedSegment:
    """Eigenbases and eigenvalues of one segment.

    Args:
        model: changed in place by ``load_checkpoint``.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        batches: the training rows; iterated twice per checkpoint.
        checkpoints: places of the segment's checkpoints in the trajectory.
        spectrum: what the segment does to a direction of a given eigenvalue.
        seed, labels: as in ``factors.covariance_sums``.
    """
    sums = FactorSums({}, {}, 0)
    for checkpoint in checkpoints:
        load_checkpoint(checkpoint)
        for batch in batches:
            sums += covariance_sums(
                model,
                objective,
                batch.inputs,
                batch.row_ids,
                seed=seed,
                checkpoint=checkpoint,
                labels=labels,
                weights=batch.weights,
            )
    bases = eigenbases(sums)
    squares: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        load_checkpoint(checkpoint)
        for batch in batches:
            added = spectrum_sums(
                model,
                objective,
                batch.inputs,
                batch.row_ids,
                bases,
                seed=seed,
                checkpoint=checkpoint,
                labels=labels,
                weights=batch.weights,
            )
            squares = add_tensors(squares, added)
    eigenvalues = {name: value / sums.examples for name, value in squares.items()}
    return PreparedSegment(tuple(checkpoints), bases, eigenvalues, spectrum)
