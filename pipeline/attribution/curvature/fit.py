"""Fits the EK-FAC factors of segments: the order of its steps, wherever the rows are.

    covariances    a pass over the rows at every checkpoint
    eigenvectors   of the covariances, layer by layer
    eigenvalues    a second pass: mean squares of the gradients in the eigenvectors (the eigenvalue correction)

The rows may be in memory, or in chunks on workers (``RowSums``). What a step gives is a flat dictionary of tensors
whose names begin with the place of their segment, as in ``0/…``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.eigenbases import (
    eigenbases,
    eigenbases_from_tensors,
    eigenbases_to_tensors,
)
from pipeline.attribution.curvature.factor_sums import FactorSums
from pipeline.attribution.curvature.passes import FactorTask, KeptGradients, fit_covariances, fit_spectrum
from pipeline.attribution.curvature.preconditioners import Conditioner
from pipeline.attribution.curvature.segment_functions import Spectrum
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.trajectory.weights import under

# Bytes of the first pass's gradients that may be kept for the second.
KEPT_BYTES = 512 << 20

Tensors = dict[str, Tensor]
Kept = TypeVar("Kept")


class Part(Protocol):
    """Some of the training rows, and what a pass over them needs, in the process that makes it.

    Attributes:
        tasks: of every segment that is fitted.
        sample: the share of rows that eigenvectors, not eigenvalues, are fitted on.
        widest: as in ``eigenbases.eigenbases``.
        kept: where gradients of the first pass are kept for the second.
    """

    @property
    def tasks(self) -> Sequence[FactorTask]: ...

    @property
    def sample(self) -> float: ...

    @property
    def widest(self) -> int | None: ...

    @property
    def kept(self) -> KeptGradients: ...

    def rows(self, place: int) -> Iterable[Batch]:
        """Those of the segment at this place; iterated as often as wanted."""


class RowSums(Protocol[Kept]):
    """Sums over all training rows, and what follows from them.

    ``Kept`` is what is left of a step for the next one: tensors in memory, or a file of tensors.
    """

    def total(self, name: str, leaf: Callable[..., Tensors], *given: Kept) -> Kept:
        """Σ ``leaf(part, *given)`` over the parts of the rows; ``given`` arrive as tensors.

        ``name`` says what is summed; ``leaf`` is a function of a module.
        """

    def derive(self, name: str, function: Callable[..., Tensors], *given: Kept) -> Kept:
        """``function(part, *given)``, with the part of any rows."""


def fit(rows: RowSums[Kept]) -> tuple[Kept, Kept]:
    """Eigenvectors and sums of squares of all segments, for ``segment_tensors``.

    Raises:
        NonFiniteError: a sum has a NaN or an infinity; names the layer, the checkpoint and the rows.
    """
    covariances = rows.total("covariance", covariances_of)
    bases = rows.derive("eigenvectors", bases_of, covariances)
    return bases, rows.total("spectrum", squares_of, bases)


def covariances_of(part: Part) -> Tensors:
    """First pass."""
    total: Tensors = {}
    for place, task in enumerate(part.tasks):
        sums = fit_covariances(task, part.rows(place), sample=part.sample, kept=part.kept)
        total |= {f"{place}/{name}": tensor for name, tensor in sums.to_tensors().items()}
    return total


def bases_of(part: Part, covariances: Tensors) -> Tensors:
    """Eigenvectors, and ``examples``, over how many the squares will be summed."""
    bases: Tensors = {}
    for place in range(len(part.tasks)):
        found = FactorSums.from_tensors(under(f"{place}/", covariances))
        fitted = eigenbases_to_tensors(eigenbases(found, part.widest))
        bases |= {f"{place}/{name}": tensor for name, tensor in fitted.items()}
        bases[f"{place}/examples"] = torch.tensor(found.examples)
    return bases


def squares_of(part: Part, bases: Tensors) -> Tensors:
    """Second pass."""
    total: Tensors = {}
    for place, task in enumerate(part.tasks):
        mine = eigenbases_from_tensors(under(f"{place}/", bases))
        sums = fit_spectrum(task, part.rows(place), mine, kept=part.kept)
        total |= {f"{place}/{name}": tensor for name, tensor in sums.items()}
    return total


def segment_tensors(bases: Tensors, squares: Tensors, place: int) -> Tensors:
    """``basis/…`` and ``eigenvalues/…`` of one segment."""
    mine = under(f"{place}/", bases)
    examples = int(mine.pop("examples"))
    values = {f"eigenvalues/{name}": each / examples for name, each in under(f"{place}/", squares).items()}
    return {f"basis/{name}": each for name, each in mine.items()} | values


def segment_of_tensors(
    tensors: Tensors,
    checkpoints: Sequence[int],
    spectrum: Spectrum,
    conditioners: Mapping[str, Conditioner],
) -> PreparedSegment:
    """The segment that ``segment_tensors`` are of."""
    bases = eigenbases_from_tensors(under("basis/", tensors))
    return PreparedSegment(tuple(checkpoints), bases, under("eigenvalues/", tensors), spectrum, conditioners)


@dataclass(frozen=True)
class _InMemory:
    """One segment whose rows are in memory: both its only part and the sums over it."""

    tasks: Sequence[FactorTask]
    batches: Iterable[Batch]
    sample: float
    widest: int | None
    kept: KeptGradients = field(default_factory=KeptGradients)

    def rows(self, place: int) -> Iterable[Batch]:
        del place
        return self.batches

    def total(self, name: str, leaf: Callable[..., Tensors], *given: Tensors) -> Tensors:
        del name
        return leaf(self, *given)

    def derive(self, name: str, function: Callable[..., Tensors], *given: Tensors) -> Tensors:
        del name
        return function(self, *given)


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
    conditioners: Mapping[str, Conditioner] | None = None,
) -> PreparedSegment:
    """Eigenbases and eigenvalues of one segment whose rows are in memory.

    Args:
        model, load_checkpoint, checkpoints, seed, labels, conditioners: as in ``FactorTask``.
        batches: the training rows; iterated twice.
        covariance_sample: the share of rows that the eigenvectors, not the eigenvalues, are fitted on.
        widest: as in ``eigenbases.eigenbases``.
    """
    given = conditioners or {}
    task = FactorTask(model, load_checkpoint, objective, checkpoints, seed, labels, given)
    kept = KeptGradients(KEPT_BYTES if covariance_sample == 1.0 else 0)
    bases, squares = fit(_InMemory([task], batches, covariance_sample, widest, kept))
    return segment_of_tensors(segment_tensors(bases, squares, 0), checkpoints, spectrum, given)
