"""Methods that compare features of a query with those of a row, all at one point: baselines to hold others against.

- ``representation``: the cosine of what the last covered layer gets as its inputs. A similarity, not nats.
- ``loss``: the row's own loss as its harm, whatever the query.
- ``trak``, of one model (Park et al., "TRAK: Attributing Model Behavior at Scale", arXiv 2303.14186, Eq. 13-17):
  gradients projected to k numbers, φ(z) = P ∇margin(z) with margin = log p/(1 − p) and p = exp(−loss), and

      τ(query, row) = P∇f(query) · (Σ_rows φ φᵀ)⁻¹ · P∇loss(row),       ∇loss(row) = −(1 − p) ∇margin(row)

  which for f = loss of the query is the predicted rise on the row's removal, in nats. An objective without margins
  takes the columns of its output Hessian's root for ∇margin: the projected Gauss–Newton matrix.

A projection to k numbers has k random rank-one matrices u vᵀ of signs a layer (⟨u vᵀ, Σ g aᵀ⟩ = Σ (u·g)(v·a)), scaled
so that inner products are kept in expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attribution.curvature.gauss_newton import gauss_newton_products
from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.products import slices_of
from pipeline.attribution.model.capture import Capture, capture, covered_layers
from pipeline.attribution.model.coverage import LayerInfo
from pipeline.attribution.objectives import Objective
from pipeline.attribution.queries.compression import DENSE_BYTES, LowRankMatrices, products
from pipeline.attribution.rows.batch import Batch

# Numbers that gradients are projected to.
PROJECTION = 1024
# 1 − p is not taken to be smaller.
_LEAST_DOUBT = 1e-12


@dataclass(frozen=True)
class Pass:
    """One batch's forward pass.

    Attributes:
        captured: the model.
        batch: the rows.
        outputs: of the model, with their graph.
        objective: whose losses are meant.
        projections: layer -> its rank-one matrices, one a number of the projection.
    """

    captured: Capture
    batch: Batch
    outputs: Tensor
    objective: Objective
    projections: Mapping[str, LowRankMatrices]

    def projected(self, at_outputs: Tensor) -> Tensor:
        """P times every example's gradient of ⟨at_outputs, outputs⟩: ``[batch, k]``."""
        found = torch.zeros((), dtype=self.outputs.dtype, device=self.outputs.device)
        for name, gradients in self.captured.gradients(self.outputs, at_outputs, retain_graph=True):
            found = found + products(gradients, self.projections[name])
        return found.T

    def margins(self) -> Tensor | None:
        """``[batch]``; None where the objective has none."""
        return self.objective.margins(self.outputs.detach(), self.batch.labels)

    def losses(self) -> tuple[Tensor, Tensor]:
        """(losses ``[batch]``, their gradients at the outputs), float64."""
        outputs = self.outputs.detach().double().requires_grad_()
        losses = self.objective.losses(outputs, self.batch.labels)
        (gradient,) = torch.autograd.grad(losses.sum(), outputs)
        return losses.detach(), gradient


@dataclass(frozen=True)
class Similarity:
    """τ = ⟨features of the query, features of the row⟩, or with the inverse of ``metric`` in between.

    Attributes:
        queries: features ``[batch, features]``.
        rows: the same of rows.
        metric: a batch's part of a sum over rows ``[features, features]``; with it a row's own score is its
            self-influence.
    """

    queries: Callable[[Pass], Tensor]
    rows: Callable[[Pass], Tensor]
    metric: Callable[[Pass], Tensor] | None = None


def passes(
    model: nn.Module,
    similarity: Similarity,
    batches: Iterable[tuple[Batch, Objective]],
    projection: int = PROJECTION,
    seed: int = 0,
) -> Iterator[Pass]:
    """Yields a forward pass of every batch at the model's present weights.

    Args:
        model: the model.
        similarity: says whether gradients are projected.
        batches: batches, each with the objective that its losses are of.
        projection: k, of methods that project.
        seed: the seed of the projection.

    Raises:
        AttributionError: ``projection`` is less than 1.
    """
    if projection < 1:
        raise AttributionError(f"projection is {projection}.", "Give how many numbers to project to.")
    like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    projections: Mapping[str, LowRankMatrices] = {}
    if similarity.metric is not None:
        projections = random_projections(covered_layers(model), projection, seed, like)
    # The model may run on one row where a batch is made, so nothing watches it there.
    for batch, objective in batches:
        with capture(model) as captured:
            yield Pass(captured, batch, captured.forward(batch.inputs), objective, projections)


def inverse_of(metric: Tensor) -> Tensor:
    """The inverse of a metric's sum over all rows, ``[features, features]``."""
    return torch.linalg.pinv(metric, hermitian=True)


def products_of(
    of_rows: Tensor, of_queries: Tensor | None, inverse: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """(influence ``[queries, rows]``, self-influence ``[rows]``), of features ``[rows, features]`` and
    ``[queries, features]``; self-influence is None without an ``inverse``."""
    solved = of_rows if inverse is None else of_rows @ inverse
    return (
        None if of_queries is None else of_queries @ solved.T,
        None if inverse is None else (solved * of_rows).sum(1),
    )


def random_projections(
    layers: Sequence[LayerInfo], size: int, seed: int, like: Tensor
) -> dict[str, LowRankMatrices]:
    """``size`` random rank-one matrices a layer, in the dtype and on the device of ``like``."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for layer in layers:
        left, right = (
            (2.0 * torch.randint(2, (size, width), generator=generator) - 1.0).to(like)
            for width in layer.shape
        )
        found[layer.name] = LowRankMatrices(left / size**0.5, right, torch.arange(size).to(like.device), size)
    return found


def _representations(visit: Pass) -> Tensor:
    return functional.normalize(visit.captured.last_inputs().double(), dim=1)


def _losses(visit: Pass) -> Tensor:
    return visit.losses()[0][:, None]


def _minus_one(visit: Pass) -> Tensor:
    return -torch.ones(len(visit.outputs), 1)


def _projected_loss(visit: Pass) -> Tensor:
    return visit.projected(visit.losses()[1].to(visit.outputs))


def _projected_margins(visit: Pass) -> Tensor:
    """Σ φ φᵀ ``[k, k]``, float64."""
    outputs, labels = visit.outputs.detach(), visit.batch.labels
    if visit.objective.margins(outputs, labels) is None:
        columns = visit.objective.exact_output_gradients(outputs, labels)
        size = next(iter(visit.projections.values())).count
        # A product takes a forward-mode pass and a backward pass, and a column a backward pass.
        if visit.objective.hessian_products is not None and 2 * size < len(columns):
            return _projected_curvature(visit, size)
    else:
        losses, gradient = visit.losses()
        doubt = (-torch.expm1(-losses)).clamp(min=_LEAST_DOUBT)
        columns = [gradient / doubt.view(-1, *[1] * (gradient.dim() - 1))]
    total = torch.zeros((), dtype=torch.float64, device=outputs.device)
    for column in columns:
        projected = visit.projected(column.to(outputs)).double()
        total = total + projected.T @ projected
    return total


def _projected_curvature(visit: Pass, size: int) -> Tensor:
    """P G Pᵀ ``[k, k]``, float64: the same sum over the columns of all outputs, by products with G = Σ Jᵀ H J."""
    batch = replace(visit.batch, weights=None)
    row_bytes = 2 * sum(each.row_bytes for each in visit.projections.values())
    found = []
    with visit.captured.released():
        for some in slices_of(size, row_bytes, DENSE_BYTES):
            directions = {name: each.dense(some) for name, each in visit.projections.items()}
            products = gauss_newton_products(visit.captured.model, visit.objective, batch, directions)
            found.append(sum(_projected(visit.projections[name], each) for name, each in products.items()))
    total = torch.cat([each for each in found if isinstance(each, Tensor)])
    return (total + total.T) / 2


def _projected(projection: LowRankMatrices, matrices: Tensor) -> Tensor:
    """Returns the inner products of matrices ``[count, out, in]`` with all of a projection: ``[count, k]``."""
    sides = projection.left.to(matrices), projection.right.to(matrices)
    return torch.stack([((sides[0] @ matrix) * sides[1]).sum(1) for matrix in matrices])


SIMILARITIES: Mapping[str, Similarity] = {
    "representation": Similarity(_representations, _representations),
    "loss": Similarity(_minus_one, _losses),
    "projected_gradients": Similarity(_projected_loss, _projected_loss, _projected_margins),
}
"""Name -> the similarity."""


def find_similarity(name: str) -> Similarity:
    """The similarity called ``name``.

    Raises:
        AttributionError: there is none of that name.
    """
    if name not in SIMILARITIES:
        raise AttributionError(
            f"There is no similarity called {name!r}.", f"Use one of: {', '.join(SIMILARITIES)}."
        )
    return SIMILARITIES[name]
