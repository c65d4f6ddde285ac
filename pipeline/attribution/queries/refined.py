"""Refined filters: solutions of a linear system with the true Gauss–Newton matrix and EK-FAC as preconditioner.

Let t be the sum of a segment's effective learning rates and λ = weight decay + 1/t. Under SGD, SOURCE's filter for a
query gradient q is nearly (H + λ)⁻¹ q. The refined filter u replaces H by the Gauss–Newton matrix G over some rows.
Each row is taken at the weights of one of the segment's checkpoints. With Π = EK-FAC + λ:

    (G + λ + γ Π) x = q                             a few steps of conjugate gradients from 0, preconditioned with Π
    α = ⟨x, q⟩ / (⟨x, G' x⟩ + λ ‖x‖²),   u = α x    G' is over other rows, because x is fitted to those of G

γ Π stands for the curvature that G over a few rows misses. α gives u the length that forecasts need. If the optimizer
has a preconditioner P (Adam, or parameter groups with learning rates of their own), all of this takes place in the
coordinates of ``preconditioners.py``: P^{1/2} G P^{1/2} plus weight decay in place of G, P^{1/2} q in place of q, and
P^{1/2} x back in parameter space.

A filter F_r = (H + λ)⁻¹ belongs to the transport F_S = 1 − (H + weight decay) F_r = F_r / t. The query gradient of the
segment before is therefore the segment's own solution divided by t. Several segments or stages are solved one after the
other, from the last to the first, and the scores of each are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.factor_sums import add_tensors
from pipeline.attribution.curvature.gauss_newton import gauss_newton_forms, gauss_newton_products
from pipeline.attribution.curvature.preconditioners import Preconditioner
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.layer_gradients import rotate, rotate_back
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.curvature_rows import CurvatureRows, curvature_rows, row_count
from pipeline.attribution.rows.derivatives import PASS_ROWS, RowSource

# Layer -> matrices ``[queries, out, in]``, float64.
Matrices = dict[str, Tensor]


@dataclass(frozen=True)
class RefinedSettings:
    """The settings of a refined solve.

    Attributes:
        prior: γ, the weight of EK-FAC beside the Gauss–Newton matrix.
        rows: n, the number of rows of the Gauss–Newton matrix.
        iterations: m, the number of steps of conjugate gradients.
        scale_rows: the number of other rows for α.
        seed: the seed of the choice of rows.
    """

    prior: float = 1.0
    rows: int = 1024
    iterations: int = 8
    scale_rows: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {"prior": 0 <= self.prior < math.inf}
        allowed |= {name: getattr(self, name) >= 1 for name in ("rows", "iterations", "scale_rows")}
        for name, is_allowed in allowed.items():
            if not is_allowed:
                raise AttributionError(
                    f"RefinedSettings.{name} is {getattr(self, name)}.",
                    "A refined solve needs a prior from 0 and at least one row, iteration and scale row.",
                )

    def within(self, train_rows: int) -> RefinedSettings:
        """Returns the settings with at most ``train_rows`` rows and scale rows."""
        return replace(self, rows=min(self.rows, train_rows), scale_rows=min(self.scale_rows, train_rows))


@dataclass(frozen=True)
class RefinedDirection:
    """The refined filters of a segment.

    Attributes:
        filters: layer -> u of the module's docstring, float64 ``[out, in]`` or ``[queries, out, in]``.
        alpha: α, float64 ``[queries]``, or ``[1]`` for a single query.
    """

    filters: Matrices
    alpha: Tensor


def refined_direction(
    model: nn.Module,
    load_checkpoint: Callable[[int], None],
    objective: Objective,
    rows: RowSource,
    train_rows: int,
    segment: PreparedSegment,
    query: Mapping[str, Tensor],
    damping: float,
    settings: RefinedSettings,
) -> RefinedDirection:
    """Computes the refined filters of a segment from training rows in memory, with ``solve_refined``.

    Args:
        model: the model; ``load_checkpoint`` changes it in place.
        load_checkpoint: loads the weights of the trajectory's i-th checkpoint into ``model``.
        objective: the training objective.
        rows: returns the segment's training rows by their numbers, with labels and weights.
        train_rows: N, the number of training rows.
        segment: the segment with its EK-FAC curvature.
        query: layer -> loss gradient of the query ``[out, in]``, or of several ``[queries, out, in]``.
        damping: λ, weight decay plus one over the sum of effective learning rates.
        settings: the settings of the solve.
    """
    own, fresh = refined_rows(train_rows, segment.checkpoints, settings)

    def mean_product(directions: Matrices) -> Matrices:
        sums: Matrices = {}
        for each in own:
            load_checkpoint(each.checkpoint)
            for part in each.rows.split(PASS_ROWS):
                sums = add_tensors(sums, gauss_newton_products(model, objective, rows(part), directions))
        return {name: value / row_count(own) for name, value in sums.items()}

    def mean_form(directions: Matrices) -> Tensor:
        form = torch.zeros(len(next(iter(directions.values()))), dtype=torch.float64)
        for each in fresh:
            load_checkpoint(each.checkpoint)
            for part in each.rows.split(PASS_ROWS):
                form += gauss_newton_forms(model, objective, rows(part), directions).cpu()
        return form / row_count(fresh)

    return solve_refined(mean_product, mean_form, segment, query, damping, settings)


def refined_rows(
    train_rows: int, checkpoints: tuple[int, ...], settings: RefinedSettings
) -> tuple[list[CurvatureRows], list[CurvatureRows]]:
    """Returns (the rows of the solve, other rows for α)."""
    used = settings.within(train_rows)
    own = curvature_rows(train_rows, checkpoints, 0, used.rows, used.seed)
    return own, curvature_rows(train_rows, checkpoints, used.rows, used.scale_rows, used.seed)


def solve_refined(
    mean_product: Callable[[Matrices], Matrices],
    mean_form: Callable[[Matrices], Tensor],
    segment: PreparedSegment,
    query: Mapping[str, Tensor],
    damping: float,
    settings: RefinedSettings,
) -> RefinedDirection:
    """Computes the refined filters of a segment, for one query or for several at once.

    Args:
        mean_product: directions in parameter space -> the mean of ``gauss_newton_products`` over the solve's rows.
        mean_form: directions in parameter space -> the mean of ``gauss_newton_forms`` over the rows for α.
        segment, query, damping, settings: as in ``refined_direction``.
    """
    single = next(iter(query.values())).dim() == 2
    stacked = {name: (value[None] if single else value).double() for name, value in query.items()}
    gradients = _preconditioned(segment, stacked)
    solution = _solve(mean_product, segment, gradients, damping, settings)
    form = mean_form(_preconditioned(segment, solution))
    alpha = _fresh_scale(segment, solution, gradients, form, damping)
    filters = _preconditioned(
        segment, {name: alpha[:, None, None] * value for name, value in solution.items()}
    )
    if single:
        filters = {name: value[0] for name, value in filters.items()}
    return RefinedDirection(filters, alpha.cpu())


def passed_on(
    segment: PreparedSegment, query: Mapping[str, Tensor], filters: Mapping[str, Tensor], lr_sum: float
) -> Matrices:
    """Returns the query gradient of the segment before: F_S q = u / t. Frozen parameters keep their entries of q.

    Args:
        segment: the segment.
        query: q, the query gradient of the segment, layer -> ``[..., out, in]``.
        filters: u, the refined filters of the segment, layer -> ``[..., out, in]``.
        lr_sum: t, the sum of the segment's effective learning rates.
    """
    passed = {}
    for name, given in query.items():
        preconditioner = segment.preconditioners.get(name, Preconditioner(None, None))
        # P^{-1/2} x / t with x = P^{-1/2} u.
        solution = preconditioner.passed(torch.zeros_like(filters[name]), filters[name])
        passed[name] = preconditioner.passed(given, solution / lr_sum)
    return passed


def _solve(
    mean_product: Callable[[Matrices], Matrices],
    segment: PreparedSegment,
    query: Matrices,
    damping: float,
    settings: RefinedSettings,
) -> Matrices:
    """Solves (G + λ + γ Π) x = q by preconditioned conjugate gradients, for each query by itself.

    Args:
        mean_product: directions in parameter space -> G times the directions.
        segment: the segment with its EK-FAC curvature.
        query: q in preconditioned coordinates, layer -> ``[queries, out, in]``.
        damping: λ.
        settings: the settings of the solve.

    Returns:
        x in preconditioned coordinates, with the layers and shapes of ``query``.
    """
    still = {name: torch.zeros_like(value) for name, value in query.items() if segment.frozen(name)}
    moving = {name: value for name, value in query.items() if name not in still}
    # In the eigenbasis Π is diagonal, so an iteration needs one rotation in each direction.
    bases = {name: segment.bases[name].to(value) for name, value in moving.items()}
    prior = {
        name: segment.curvature(name).to(value).clamp(min=0.0) + damping for name, value in moving.items()
    }
    solution = {name: torch.zeros_like(value) for name, value in moving.items()}
    residual = {name: rotate(value, bases[name]) for name, value in moving.items()}
    preconditioned = {name: value / prior[name] for name, value in residual.items()}
    direction, energy = preconditioned, inner(residual, preconditioned)
    for _ in range(settings.iterations):
        plain = {name: rotate_back(value, bases[name]) for name, value in direction.items()}
        products = _preconditioned(segment, mean_product(_preconditioned(segment, plain | still)))
        decayed = _decayed(segment, plain, damping)
        applied = {
            name: rotate(products[name] + decayed[name], bases[name]) + settings.prior * prior[name] * value
            for name, value in direction.items()
        }
        length = _ratio(energy, inner(direction, applied))
        solution = _plus(solution, length, direction)
        residual = _plus(residual, -length, applied)
        preconditioned = {name: value / prior[name] for name, value in residual.items()}
        before, energy = energy, inner(residual, preconditioned)
        direction = _plus(preconditioned, _ratio(energy, before), direction)
    return {name: rotate_back(value, bases[name]) for name, value in solution.items()} | still


def _fresh_scale(
    segment: PreparedSegment, solution: Matrices, query: Matrices, form: Tensor, damping: float
) -> Tensor:
    """Returns α, ``[queries]``.

    Args:
        segment: the segment.
        solution: x in preconditioned coordinates.
        query: q in preconditioned coordinates.
        form: ⟨x, G' x⟩ ``[queries]``, the mean of ``gauss_newton_forms`` over other rows.
        damping: λ.
    """
    length = inner(solution, _decayed(segment, solution, damping))
    return _ratio(inner(solution, query), form.to(length) + length)


def inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Returns inner products over all layers: ``[queries]``."""
    return torch.stack([(value * second[name]).flatten(1).sum(1) for name, value in first.items()]).sum(0)


def _preconditioned(segment: PreparedSegment, matrices: Matrices) -> Matrices:
    """Returns P^{1/2} ∘ matrices."""
    scaled = {name: segment.preconditioners.get(name) for name in matrices}
    return {
        name: value if (found := scaled[name]) is None else found.preconditioned(value)
        for name, value in matrices.items()
    }


def _decayed(segment: PreparedSegment, matrices: Matrices, damping: float) -> Matrices:
    """Returns (λ + D) ∘ matrices."""
    found = {}
    for name, value in matrices.items():
        preconditioner = segment.preconditioners.get(name)
        decay = None if preconditioner is None else preconditioner.decay
        found[name] = damping * value if decay is None else (damping + decay.to(value)) * value
    return found


def _plus(first: Matrices, factor: Tensor, second: Matrices) -> Matrices:
    return {name: value + factor[:, None, None] * second[name] for name, value in first.items()}


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Returns numerator / denominator, and 0 where the denominator is 0: that query is solved or has no gradient."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), 0.0)
