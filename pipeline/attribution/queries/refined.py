"""Beyond EK-FAC: the query's direction solved for with the true Gauss–Newton matrix, EK-FAC as preconditioner.

In a segment of SGD, SOURCE's filter nearly is (H + λ)⁻¹ q for λ = weight decay + 1/t, t the sum of its effective
learning rates. Here, with G the Gauss–Newton matrix over some rows, each at the weights of one of the segment's
checkpoints, and Π = EK-FAC + λ:

    (G + λ + γ Π) x = q       some conjugate gradients from 0, preconditioned with Π
    u = α x,   α = ⟨x, q⟩ / (⟨x, G' x⟩ + λ ‖x‖²)       G' over fresh rows, since x fits its own

γ Π makes up for the curvature that few rows miss; α then gives u the length that forecasts need. Where the optimizer
scales parameters by P (Adam, or groups with learning rates of their own), all this is in the coordinates of
``conditioners``, in which training is gradient descent: P^{1/2} G P^{1/2} + decay for G, P^{1/2} q for q, and P^{1/2} x
back in parameter space.

A filter F_r = (H + λ)⁻¹ belongs to F_S = 1 − (H + weight decay) F_r = F_r / t (``transport``): what a segment passes on
to the one before is its own solution over t, so that several segments or stages are solved one after the other, from
the last, and each in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.attribution.curvature.factor_sums import add_tensors
from pipeline.attribution.curvature.gauss_newton import gauss_newton_forms, gauss_newton_products
from pipeline.attribution.curvature.preconditioners import Conditioner
from pipeline.attribution.curvature.segments import PreparedSegment
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.layer_gradients import rotate, rotate_back
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.derivatives import PASS_ROWS, RowSource

# Layer -> matrices [queries, out, in], float64.
Matrices = dict[str, Tensor]


@dataclass(frozen=True)
class RefinedSettings:
    """How a refined solve goes.

    Attributes:
        prior: γ, the weight of EK-FAC beside the Gauss–Newton matrix of the rows.
        rows: n, how many rows the matrix is taken over.
        iterations: m, of conjugate gradients.
        scale_rows: fresh rows for α.
        seed: which rows.
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
        """With no more rows, and fresh rows, than there are."""
        return replace(self, rows=min(self.rows, train_rows), scale_rows=min(self.scale_rows, train_rows))


@dataclass(frozen=True)
class RefinedDirection:
    """u of the module's text.

    Attributes:
        filters: layer -> u ``[out, in]`` or ``[queries, out, in]``, float64; the segment's filters for scoring.
        alpha: α, ``[queries]`` float64, one number for a single query.
    """

    filters: Matrices
    alpha: Tensor


@dataclass(frozen=True)
class CurvatureRows:
    """Rows at the weights of one checkpoint. ``checkpoint``: its place in the trajectory; ``rows``: int64."""

    checkpoint: int
    rows: Tensor


def curvature_rows(
    train_rows: int, checkpoints: tuple[int, ...], first: int, count: int, seed: int
) -> list[CurvatureRows]:
    """``count`` rows from the place ``first`` of a seeded order on, in turn at each of the checkpoints.

    The order starts again where rows run out; a row then comes at another checkpoint.
    """
    order = torch.randperm(train_rows, generator=torch.Generator().manual_seed(seed))
    places = torch.arange(first, first + count)
    turns = (places + places // train_rows) % len(checkpoints)
    chosen = [order[places[turns == turn] % train_rows].sort().values for turn in range(len(checkpoints))]
    return [CurvatureRows(c, rows) for c, rows in zip(checkpoints, chosen, strict=True) if len(rows)]


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
    """`solve_refined` for training rows in memory.

    Args:
        model: changed in place by ``load_checkpoint``.
        rows: gives the segment's training rows by their numbers, with labels and weights.
        train_rows: N.
        segment: its factors.
        query: layer -> gradient ``[out, in]``, or ``[queries, out, in]``.
        damping: λ, weight decay plus one over the sum of effective learning rates.
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
    """The rows of the solve, and fresh ones for α."""
    used = settings.within(train_rows)
    own = curvature_rows(train_rows, checkpoints, 0, used.rows, used.seed)
    return own, curvature_rows(train_rows, checkpoints, used.rows, used.scale_rows, used.seed)


def row_count(parts: list[CurvatureRows]) -> int:
    return sum(len(part.rows) for part in parts)


def solve_refined(
    mean_product: Callable[[Matrices], Matrices],
    mean_form: Callable[[Matrices], Tensor],
    segment: PreparedSegment,
    query: Mapping[str, Tensor],
    damping: float,
    settings: RefinedSettings,
) -> RefinedDirection:
    """Solves for one query or several at once.

    Args:
        mean_product, mean_form: directions in parameter space -> the means of ``gauss_newton_products`` over the
            solve's rows, and of ``gauss_newton_forms`` over fresh rows.
        segment, query, damping: as in ``refined_direction``.
    """
    single = next(iter(query.values())).dim() == 2
    stacked = {name: (value[None] if single else value).double() for name, value in query.items()}
    gradients = _conditioned(segment, stacked)
    solution = solve(mean_product, segment, gradients, damping, settings)
    form = mean_form(_conditioned(segment, solution))
    alpha = fresh_scale(segment, solution, gradients, form, damping)
    filters = _conditioned(segment, {name: alpha[:, None, None] * value for name, value in solution.items()})
    if single:
        filters = {name: value[0] for name, value in filters.items()}
    return RefinedDirection(filters, alpha.cpu())


def passed_on(
    segment: PreparedSegment, query: Mapping[str, Tensor], filters: Mapping[str, Tensor], lr_sum: float
) -> Matrices:
    """The query of the segment before: F_S q = u / t; what the segment leaves as it is passes through unchanged.

    Args:
        query, filters: q and u, layer -> ``[..., out, in]``.
        lr_sum: t.
    """
    passed = {}
    for name, given in query.items():
        conditioner = segment.conditioners.get(name, Conditioner(None, None))
        # P^{-1/2} x / t with x = P^{-1/2} u.
        solution = conditioner.passed(torch.zeros_like(filters[name]), filters[name])
        passed[name] = conditioner.passed(given, solution / lr_sum)
    return passed


def solve(
    mean_product: Callable[[Matrices], Matrices],
    segment: PreparedSegment,
    query: Matrices,
    damping: float,
    settings: RefinedSettings,
) -> Matrices:
    """Preconditioned conjugate gradients for (G + λ + γ Π) x = q, each query on its own, in conditioned coordinates.

    Args:
        mean_product: directions -> G times them, the mean of ``gauss_newton_products`` over the solve's rows.
    """
    still = {name: torch.zeros_like(value) for name, value in query.items() if segment.frozen(name)}
    moving = {name: value for name, value in query.items() if name not in still}
    # In the eigenbasis Π is diagonal, and one rotation each way is enough for an iteration.
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
        products = _conditioned(segment, mean_product(_conditioned(segment, plain | still)))
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


def fresh_scale(
    segment: PreparedSegment, solution: Matrices, query: Matrices, form: Tensor, damping: float
) -> Tensor:
    """α ``[queries]``. ``form``: ⟨x, G' x⟩, the mean of ``gauss_newton_forms`` over fresh rows; all else is in
    conditioned coordinates."""
    length = inner(solution, _decayed(segment, solution, damping))
    return _ratio(inner(solution, query), form.to(length) + length)


def inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Inner products over all layers: ``[queries]``."""
    return torch.stack([(value * second[name]).flatten(1).sum(1) for name, value in first.items()]).sum(0)


def _conditioned(segment: PreparedSegment, matrices: Matrices) -> Matrices:
    """P^{1/2} ∘ matrices."""
    scaled = {name: segment.conditioners.get(name) for name in matrices}
    return {
        name: value if (found := scaled[name]) is None else found.conditioned(value)
        for name, value in matrices.items()
    }


def _decayed(segment: PreparedSegment, matrices: Matrices, damping: float) -> Matrices:
    """(λ + D) ∘ matrices."""
    found = {}
    for name, value in matrices.items():
        conditioner = segment.conditioners.get(name)
        decay = None if conditioner is None else conditioner.decay
        found[name] = damping * value if decay is None else (damping + decay.to(value)) * value
    return found


def _plus(first: Matrices, factor: Tensor, second: Matrices) -> Matrices:
    return {name: value + factor[:, None, None] * second[name] for name, value in first.items()}


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0: a query that is solved, or has no gradient."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), 0.0)
