"""Fits the EK-FAC factors of segments, in three steps:

    covariances    a pass over the rows at every checkpoint
    eigenvectors   the decomposition of the covariances, layer by layer
    eigenvalues    a second pass: mean squares of the gradients in the eigenbasis (the eigenvalue correction)

The rows may be in memory, or in chunks on workers (``RowSums``). The result of a step is a flat dictionary of tensors.
Each name begins with the place of the tensor's segment, as in ``0/…``.
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
from pipeline.attribution.curvature.passes import FactorTask, KeptGradients, fit_covariances, fit_eigenvalues
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.curvature.segment_functions import Spectrum
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.objectives import Objective
from pipeline.attribution.options import WIDEST_OUTPUTS
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.trajectory.weights import under

# The most bytes of the first pass's gradients that are kept for the second pass.
KEPT_BYTES = 512 << 20

Tensors = dict[str, Tensor]
Kept = TypeVar("Kept")


class Part(Protocol):
    """Some of the training rows, with the inputs of a pass over them, in the process that makes the pass.

    Attributes:
        tasks: the inputs of both passes, for every segment that is fitted.
        sample: the share of rows that the eigenvectors are fitted on. Eigenvalues are fitted on all rows.
        widest: as in ``eigenbases.eigenbases``.
        kept: keeps gradients of the first pass for the second pass.
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
        """Returns the rows of the segment at this place. They can be iterated several times."""


class RowSums(Protocol[Kept]):
    """Computes sums over all training rows, and functions of such sums.

    ``Kept`` is the form in which the result of a step is kept for the next: tensors in memory, or a file of tensors.
    """

    def total(self, name: str, leaf: Callable[..., Tensors], *given: Kept) -> Kept:
        """Returns Σ ``leaf(part, *given)`` over the parts of the rows.

        Args:
            name: the name of the sum.
            leaf: the function whose results are summed. It must be defined at the top of a module.
            given: results of earlier steps; ``leaf`` gets them as tensors.
        """

    def derive(self, name: str, function: Callable[..., Tensors], *given: Kept) -> Kept:
        """Returns ``function(part, *given)``, where ``part`` may be any part of the rows."""


def fit(rows: RowSums[Kept]) -> tuple[Kept, Kept]:
    """Fits all segments, and returns their eigenvectors and sums of squares for ``segment_tensors``.

    Raises:
        NonFiniteError: a sum has a NaN or an infinity. The message names the layer, the checkpoint and the rows.
    """
    covariances = rows.total("covariance", covariances_of)
    bases = rows.derive("eigenvectors", bases_of, covariances)
    return bases, rows.total("spectrum", squares_of, bases)


def covariances_of(part: Part) -> Tensors:
    """Returns the covariance sums of a part of the rows, by the first pass."""
    total: Tensors = {}
    for place, task in enumerate(part.tasks):
        sums = fit_covariances(task, part.rows(place), sample=part.sample, kept=part.kept)
        total |= {f"{place}/{name}": tensor for name, tensor in sums.to_tensors().items()}
    return total


def bases_of(part: Part, covariances: Tensors) -> Tensors:
    """Returns the eigenvectors of the covariances, and ``examples``: the number of examples that were summed."""
    bases: Tensors = {}
    for place in range(len(part.tasks)):
        found = FactorSums.from_tensors(under(f"{place}/", covariances))
        fitted = eigenbases_to_tensors(eigenbases(found, part.widest))
        bases |= {f"{place}/{name}": tensor for name, tensor in fitted.items()}
        bases[f"{place}/examples"] = torch.tensor(found.examples)
    return bases


def squares_of(part: Part, bases: Tensors) -> Tensors:
    """Returns the sums of squares of a part of the rows, by the second pass."""
    total: Tensors = {}
    for place, task in enumerate(part.tasks):
        mine = eigenbases_from_tensors(under(f"{place}/", bases))
        sums = fit_eigenvalues(task, part.rows(place), mine, kept=part.kept)
        total |= {f"{place}/{name}": tensor for name, tensor in sums.items()}
    return total


def segment_tensors(bases: Tensors, squares: Tensors, place: int) -> Tensors:
    """Returns the tensors ``basis/…`` and ``eigenvalues/…`` of the segment at this place."""
    mine = under(f"{place}/", bases)
    examples = int(mine.pop("examples"))
    values = {f"eigenvalues/{name}": each / examples for name, each in under(f"{place}/", squares).items()}
    return {f"basis/{name}": each for name, each in mine.items()} | values


def segment_of_tensors(
    tensors: Tensors,
    checkpoints: Sequence[int],
    spectrum: Spectrum,
    preconditioners: Mapping[str, Preconditioner],
) -> PreparedSegment:
    """Returns a segment: the inverse of ``segment_tensors``."""
    bases = eigenbases_from_tensors(under("basis/", tensors))
    return PreparedSegment(
        tuple(checkpoints), bases, under("eigenvalues/", tensors), spectrum, preconditioners
    )


@dataclass(frozen=True)
class _InMemory:
    """One segment whose rows are in memory. It is the only part of the rows, and computes the sums over it."""

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
    fisher: str = "mc",
    covariance_sample: float = 1.0,
    widest: int | None = None,
    widest_outputs: int = WIDEST_OUTPUTS,
    preconditioners: Mapping[str, Preconditioner] | None = None,
) -> PreparedSegment:
    """Eigenbases and eigenvalues of one segment whose rows are in memory.

    Args:
        model, load_checkpoint, objective, checkpoints, seed, fisher, widest_outputs, preconditioners: as in
            ``passes.FactorTask``.
        batches: the training rows; they are iterated twice.
        spectrum: the functions of the eigenvalues that the segment applies.
        covariance_sample: the share of rows that the eigenvectors are fitted on. Eigenvalues are fitted on all rows.
        widest: as in ``eigenbases.eigenbases``.

    Raises:
        NonFiniteError: a sum has a NaN or an infinity. The message names the layer, the checkpoint and the rows.
        AttributionError: there are no rows.
    """
    given = preconditioners or {}
    task = FactorTask(
        model, load_checkpoint, objective, checkpoints, seed, fisher, given, widest_outputs=widest_outputs
    )
    kept = KeptGradients(KEPT_BYTES if covariance_sample == 1.0 else 0)
    bases, squares = fit(_InMemory([task], batches, covariance_sample, widest, kept))
    return segment_of_tensors(segment_tensors(bases, squares, 0), checkpoints, spectrum, given)
