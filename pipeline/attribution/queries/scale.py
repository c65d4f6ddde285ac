"""The scale of a forecast: one number that corrects the error of EK-FAC's curvature along a query's filter.

The sum of SOURCE's scores over rows is several times too large in nats, because EK-FAC misjudges the curvature along
the filter. Let q be the query gradient, Ĥ the EK-FAC curvature and t the sum of effective learning rates. With one
segment, SOURCE's filter x = F_r(Ĥ) q nearly solves (Ĥ + λ) x = q with λ = weight decay + 1/t. The filter gets the right
length for the true Gauss–Newton matrix G if it is scaled by

    α = ⟨x, (Ĥ + λ) x⟩ / (⟨x, G x⟩ + λ ‖x‖²)

⟨x, G x⟩ takes one forward-mode pass over some rows. α is 1 where EK-FAC is exact. α doesn't change rankings.

Under Adam, the same holds in the coordinates P^{-1/2} θ (``preconditioners.py``): x̃ = F_r(M̂) q̃ nearly solves
(M̂ + λ) x̃ = q̃, and ⟨x̃, M x̃⟩ = ⟨u, G u⟩ for the filter u = P^{1/2} x̃ in parameter space. Weight decay adds Σ D x̃².

There is no such number for several segments: the error of a transport isn't along the filter of the segment before. The
scores of several segments are uncalibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.gauss_newton import gauss_newton_form
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.gradients.layer_gradients import rotate
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.curvature_rows import row_count, rows_inside, scale_rows
from pipeline.attribution.rows.batch import Batch


def scale_correction(
    segment: PreparedSegment, direction: Mapping[str, Tensor], mean_form: float, damping: float
) -> float:
    """Returns α of the module's docstring, for a trajectory of one segment.

    Args:
        segment: the segment, with its EK-FAC curvature Ĥ.
        direction: x, the query's filter of the segment, layer -> ``[out, in]``.
        mean_form: ⟨x, G x⟩, the mean of ``gauss_newton_form`` over rows spread over the segment's checkpoints.
        damping: λ, weight decay plus one over the sum of effective learning rates.
    """
    damped = approximate = 0.0
    for name, matrix in direction.items():
        if segment.frozen(name):
            continue
        filtered = matrix.double()
        preconditioner = segment.preconditioners.get(name, Preconditioner(None, None)).to(filtered)
        solution = preconditioner.passed(torch.zeros_like(filtered), filtered)
        energy = rotate(solution, segment.bases[name].to(solution)).square()
        damped += damping * float(energy.sum())
        if preconditioner.decay is not None:
            damped += float((preconditioner.decay * solution.square()).sum())
        approximate += float((segment.eigenvalues[name].to(energy).clamp(min=0) * energy).sum())
    return (approximate + damped) / (mean_form + damped)


def measured_scale(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    batches: Iterable[Batch],
    segment: PreparedSegment,
    direction: Mapping[str, Tensor],
    damping: float,
    *,
    seed: int = 0,
) -> float:
    """Measures α on random rows, spread over the checkpoints of the only segment.

    Args:
        model, load_checkpoint, objective: as in ``passes.FactorTask``.
        batches: all training rows; they are iterated twice.
        segment, direction, damping: as in ``scale_correction``.
        seed: the seed of the choice of rows.
    """
    count = sum(len(batch.row_ids) for batch in batches)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = scale_rows(order, segment.checkpoints)
    held: dict[int, list[Batch]] = {part.checkpoint: [] for part in parts}
    first = 0
    for batch in batches:
        for part in rows_inside(parts, first, len(batch.row_ids)):
            held[part.checkpoint].append(batch.select(part.rows))
        first += len(batch.row_ids)
    total = 0.0
    for checkpoint, chosen in held.items():
        load_checkpoint(checkpoint)
        total += sum(gauss_newton_form(model, objective, batch, direction) for batch in chosen)
    return scale_correction(segment, direction, total / row_count(parts), damping)
