"""Methods that compare features of queries and rows: sums of features over chunks, and the scores of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.attribution.curvature.factor_sums import add_into
from pipeline.attribution.objectives import Objective
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.rows import BatchScores
from pipeline.attribution.scores.similarity import Pass, inverse_of, passes, products_of
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.scoring.plan import ScoringPlan, attribution_model
from pipeline.scoring.row_sums import ChunksPart
from pipeline.workers.kept import keep
from pipeline.workers.sums import Tensors
from pipeline.workers.worker import run_config, run_objective

FEATURES = "features"
"""The name of the queries' features in a file; files of other methods have the names of layers."""
METRIC, INVERSE = "metric", "inverse"


def _visits(plan: ScoringPlan, batches: Iterable[Batch], objective: Objective) -> Iterator[Pass]:
    """Yield a pass of every batch at the current weights of the model."""
    model, similarity = attribution_model(plan.run_path), plan.similarity
    assert similarity is not None
    seed = run_config(plan.run_path).attribution.seed
    return passes(model, similarity, ((batch, objective) for batch in batches), seed=seed)


def query_features(plan: ScoringPlan, batch: Batch, objective: Objective) -> Tensors:
    """Σ of the queries' features at the current weights of the model, float64 `[features]`."""
    similarity, total = plan.similarity, Tensors()
    assert similarity is not None
    for visit in _visits(plan, [batch], objective):
        add_into(total, {FEATURES: similarity.queries(visit).double().sum(0).cpu()})
    return total


def metric_of(part: ChunksPart) -> Tensors:
    """Σ of the metric over the rows of some chunks, `[features, features]`."""
    similarity, total = part.plan.similarity, Tensors()
    assert similarity is not None
    assert similarity.metric is not None
    restore_weights(attribution_model(part.plan.run_path), part.plan.query_weights())
    for visit in _visits(part.plan, part.rows(0), run_objective(part.plan.run_path)):
        add_into(total, {METRIC: similarity.metric(visit).cpu()})
    return total


def inverse_metric_of(part: ChunksPart, metric: Tensors) -> Tensors:
    """The inverse of the metric."""
    del part
    return {INVERSE: inverse_of(metric[METRIC])}


def compared(
    plan: ScoringPlan, batches: Sequence[Batch], queries: Mapping[str, Tensor], self_influence: bool
) -> BatchScores:
    """Score rows like `score_rows`, but with features; losses are those at the weights of the query.

    Args:
        plan: what is attributed.
        batches: of the rows.
        queries: name → mean features, `[features]`, or `[queries, features]` of several queries.
        self_influence: whether self-influence is computed.
    """
    similarity, path = plan.similarity, plan.inverse_path
    assert similarity is not None
    inverse = keep(INVERSE, path, lambda: load_file(path)[INVERSE]) if similarity.metric is not None else None
    restore_weights(attribution_model(plan.run_path), plan.query_weights())
    rows: list[Tensor] = []
    losses: list[Tensor] = []
    margins: list[Tensor] = []
    for visit in _visits(plan, batches, run_objective(plan.run_path)):
        rows.append(similarity.rows(visit).double().cpu())
        losses.append(visit.losses()[0].cpu())
        margins += [] if (margin := visit.margins()) is None else [margin.double().cpu()]
    harm: dict[str, Tensor] = {}
    own: Tensor | None = None
    for name, asked in queries.items():
        influence, own = products_of(torch.cat(rows), torch.atleast_2d(asked).double(), inverse)
        assert influence is not None
        harm[name] = -influence if asked.dim() > 1 else -influence[0]
    if not queries:
        own = products_of(torch.cat(rows), None, inverse)[1]
    return BatchScores(
        own if self_influence else None,
        harm,
        torch.cat(losses)[None],
        torch.cat(margins)[None] if margins else None,
    )
