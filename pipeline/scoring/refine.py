"""Refined solves on the workers: products with the true Gauss–Newton matrix are sums over chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from pipeline.attribution.curvature.factor_sums import add_into
from pipeline.attribution.curvature.gauss_newton import gauss_newton_forms, gauss_newton_products
from pipeline.attribution.queries.curvature_rows import CurvatureRows, row_count, rows_inside
from pipeline.attribution.queries.refined import (
    RefinedDirection,
    RefinedSettings,
    refined_rows,
    solve_refined,
)
from pipeline.attribution.rows.derivatives import PASS_ROWS
from pipeline.attribution.scores.conductor import Solve
from pipeline.config import Attribution
from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import ScoringPlan, attribution_model, batch_of, chunk_groups, weighted_rows
from pipeline.workers.sums import Tensors, forget, summed
from pipeline.workers.worker import run_config, run_data, run_objective

FORMS = "forms"
"""The name of the sum of forms, which belong to no layer."""
SOLVED_NUMBERS = 2**24
"""Upper limit of numbers in the gradients that are solved for at once; a solve holds about ten float64 copies."""
PASS_PRODUCTS = 4 * PASS_ROWS
"""Upper limit of rows times directions in a pass; each combination holds the activations of a row."""

ChunkRows = tuple[Chunk, list[CurvatureRows]]
"""A chunk and the rows of it that are used, numbered from its first row."""


def solver(context: AuditContext, plan: ScoringPlan, folder: Path, name: str) -> Solve:
    """A function that solves for a query in the segment at a place; `folder` and `name` are as in `refined_query`."""

    def solve(place: int, query: Mapping[str, Tensor]) -> RefinedDirection:
        return refined_query(context, plan, place, query, folder / f"segment-{place}", name)

    return solve


def refined_query(
    context: AuditContext, plan: ScoringPlan, place: int, query: Mapping[str, Tensor], folder: Path, name: str
) -> RefinedDirection:
    """Solve for the filters of one or several queries in a segment, in nats.

    The solve runs in this process in float64; products with the Gauss–Newton matrix run on the workers.

    Args:
        context: of the audit.
        plan: what is attributed.
        place: of the segment.
        query: layer → gradient, `[out, in]` or `[queries, out, in]`.
        folder: for products, which are reused after an interruption; the caller removes it.
        name: of the query, for errors.
    """
    data, settings = run_data(plan.run_path), refined_of(plan)
    planned = plan.planned()[place]
    assert planned.damping is not None  # learning rates are above 0
    own, fresh = refined_rows(data.count("train"), planned.points, settings)
    turn = 0

    def chunk_sums(leaf: Callable[..., Tensors], parts: list[CurvatureRows], directions: Tensors) -> Tensors:
        nonlocal turn
        turn += 1
        working, product = folder / f"product-{turn}", folder / f"product-{turn}.safetensors"
        if not product.exists():
            path = working / "directions.safetensors"
            save_tensors(path, directions)
            chunks = [
                (chunk, mine)
                for chunk in data.chunks("train")
                if (mine := rows_inside(parts, chunk.first, chunk.rows))
            ]
            tasks = [(plan, group, path) for group in chunk_groups(chunks)]
            found = summed(context.workers, leaf, tasks, working, f"{name}: product {turn}")
            save_tensors(product, load_file(found))
            forget(working)
        return {layer: total / row_count(parts) for layer, total in load_file(product).items()}

    return solve_refined(
        lambda directions: chunk_sums(_product_leaf, own, directions),
        lambda directions: chunk_sums(_form_leaf, fresh, directions)[FORMS],
        plan.prepared_segments()[place],
        query,
        planned.damping,
        settings,
    )


def refined_settings(config: Attribution) -> RefinedSettings:
    """The settings of refined solves in the config."""
    return RefinedSettings(
        config.refined_prior, config.refined_rows, config.refined_iterations, seed=config.seed
    )


def refined_of(plan: ScoringPlan) -> RefinedSettings:
    """The settings of a plan's refined solves, with no more rows than there are train rows."""
    settings = refined_settings(run_config(plan.run_path).attribution)
    return settings.within(run_data(plan.run_path).count("train"))


def _product_leaf(plan: ScoringPlan, chunks: list[ChunkRows], directions: Path) -> Tensors:
    """Σ of the Gauss–Newton products over some rows of some chunks, each at its checkpoint."""
    return _row_sums(plan, chunks, directions, gauss_newton_products)


def _form_leaf(plan: ScoringPlan, chunks: list[ChunkRows], directions: Path) -> Tensors:
    """Σ of the quadratic forms over some rows of some chunks, `[queries]`."""
    return _row_sums(plan, chunks, directions, lambda *given: {FORMS: gauss_newton_forms(*given)})


def _row_sums(
    plan: ScoringPlan, chunks: list[ChunkRows], directions: Path, function: Callable[..., Tensors]
) -> Tensors:
    model, objective = attribution_model(plan.run_path), run_objective(plan.run_path)
    along, total = load_file(directions, device=str(next(model.parameters()).device)), Tensors()
    count = len(next(iter(along.values())))
    size = max(1, min(PASS_ROWS, PASS_PRODUCTS // count))
    for chunk, parts in chunks:
        rows = weighted_rows(plan.run_path, chunk)
        for part in parts:
            plan.load_checkpoint(model, part.checkpoint)
            for some in part.rows.split(size):
                batch = batch_of(plan.run_path, rows.select(some))
                add_into(total, function(model, objective, batch, along))
    return total
