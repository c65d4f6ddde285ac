"""The scale of a forecast: one number that repairs what EK-FAC's curvature gets wrong along a query.

The sum of SOURCE's scores over rows is several times too large in nats, since EK-FAC misjudges the curvature along
the query's direction. With one segment, SOURCE's answer x = F_r(Ĥ) q nearly solves (Ĥ + λ) x = q for λ = weight
decay + 1/t, t the sum of effective learning rates; scaled by

    α = ⟨x, (Ĥ + λ) x⟩ / (⟨x, G x⟩ + λ ‖x‖²)

it has the right length for the true Gauss–Newton matrix G, whose product ⟨x, G x⟩ takes one forward-mode pass
over some rows. α is 1 where EK-FAC is exact. Rankings don't change.

Under Adam (``conditioners``) the same holds in the coordinates P^{-1/2} θ: x̃ = F_r(M̂) q̃ nearly solves (M̂ + λ) x̃ = q̃,
and ⟨x̃, M x̃⟩ = ⟨u, G u⟩ for the filter u = P^{1/2} x̃ in parameter space; weight decay adds Σ D x̃². Over several segments
there is no such number: an error in what one passes on isn't along the filter of the one before. Their scores are
uncalibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.gauss_newton import gauss_newton_form
from pipeline.attribution.curvature.passes import sampled_batches
from pipeline.attribution.curvature.preconditioners import Conditioner
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.gradients.layer_gradients import rotate
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch

# Rows whose Gauss–Newton form is measured.
SCALE_ROWS = 1024


def scale_correction(
    segment: PreparedSegment, direction: Mapping[str, Tensor], mean_form: float, damping: float
) -> float:
    """α of the module's text, for a trajectory of one segment.

    Args:
        segment: its EK-FAC curvature Ĥ.
        direction: x, the query's filter of that segment, as layer -> matrix ``[out, in]``.
        mean_form: ⟨x, G x⟩, `gauss_newton_form` as a mean over rows spread over the segment's checkpoints.
        damping: λ, weight decay plus one over the sum of effective learning rates.
    """
    damped = approximate = 0.0
    for name, matrix in direction.items():
        if segment.frozen(name):
            continue
        filtered = matrix.double()
        conditioner = segment.conditioners.get(name, Conditioner(None, None)).to(filtered)
        solution = conditioner.passed(torch.zeros_like(filtered), filtered)
        energy = rotate(solution, segment.bases[name].to(solution)).square()
        damped += damping * float(energy.sum())
        if conditioner.decay is not None:
            damped += float((conditioner.decay * solution.square()).sum())
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
    rows: int = SCALE_ROWS,
) -> float:
    """α, from about ``rows`` random rows spread over the checkpoints of the only segment.

    Args:
        model, load_checkpoint: as in ``prepare.prepare_segment``.
        batches: all training rows.
        direction, damping: as in ``scale_correction``.
    """
    count = sum(len(batch.row_ids) for batch in batches)
    share = min(1.0, rows / max(1, count))
    chosen = [batch for batch, _ in sampled_batches(batches, share, seed) if len(batch.row_ids)]
    total, used = 0.0, sum(len(batch.row_ids) for batch in chosen)
    for turn, checkpoint in enumerate(segment.checkpoints):
        load_checkpoint(checkpoint)
        for batch in chosen:
            mine = torch.arange(turn, len(batch.row_ids), len(segment.checkpoints))
            if len(mine):
                total += gauss_newton_form(model, objective, batch.select(mine), direction)
    return scale_correction(segment, direction, total / max(1, used), damping)
