"""Refined solves on the workers: products with the true Gauss–Newton matrix are sums over chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from pipeline.attribution.curvature.factor_sums import add_into
from pipeline.attribution.curvature.gauss_newton import gauss_newton_forms, gauss_newton_products
from pipeline.attribution.queries.refined import (
    CurvatureRows,
    RefinedDirection,
    RefinedSettings,
    refined_rows,
    row_count,
    solve_refined,
)
from pipeline.attribution.rows.derivatives import PASS_ROWS
from pipeline.attribution.scores.conductor import Solve
from pipeline.config import Attribution
from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.plan import Plan, attribution_model, batch_of, chunk_groups, weighted_rows
from pipeline.workers.sums import Tensors, forget, summed
from pipeline.workers.worker import run_config, run_data, run_objective

FORMS = "forms"
"""The name under which forms, which belong to no layer, are summed."""
SOLVED_NUMBERS = 2**24
"""Numbers in the gradients that are solved for at once: the solve holds about ten float64 copies of them."""
PASS_PRODUCTS = 4 * PASS_ROWS
"""Rows times directions in a pass: each of them holds the activations of a row."""

ChunkRows = tuple[Chunk, list[CurvatureRows]]
"""A chunk and those of its rows that are taken, numbered from its first."""


def solver(context: AuditContext, plan: Plan, folder: Path, name: str) -> Solve:
    """Solves for a query in the segment at a place; folder and name: as in `refined_query`."""

    def solve(place: int, query: Mapping[str, Tensor]) -> RefinedDirection:
        return refined_query(context, plan, place, query, folder / f"segment-{place}", name)

    return solve


def refined_query(
    context: AuditContext, plan: Plan, place: int, query: Mapping[str, Tensor], folder: Path, name: str
) -> RefinedDirection:
    """The filters of a query or several in a segment, in nats; the solve itself is done here, in float64.

    place: the segment's; query: layer → `[out, in]` or `[queries, out, in]`. folder: for products that an interruption
    leaves whole, of which the caller disposes.
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
            chunks = [(chunk, mine) for chunk in data.chunks("train") if (mine := rows_inside(parts, chunk))]
            tasks = [(plan, group, path) for group in chunk_groups(chunks)]
            found = summed(context.workers, leaf, tasks, working, f"{name}: product {turn}")
            save_tensors(product, load_file(found))
            forget(working)
        return {layer: total / row_count(parts) for layer, total in load_file(product).items()}

    return solve_refined(
        lambda directions: chunk_sums(product_leaf, own, directions),
        lambda directions: chunk_sums(form_leaf, fresh, directions)[FORMS],
        plan.prepared_segments()[place],
        query,
        planned.damping,
        settings,
    )


def refined_settings(config: Attribution) -> RefinedSettings:
    """What is asked for."""
    return RefinedSettings(
        config.refined_prior, config.refined_rows, config.refined_iterations, seed=config.seed
    )


def refined_of(plan: Plan) -> RefinedSettings:
    """What a plan's solves use: of rows, no more than there are."""
    settings = refined_settings(run_config(plan.run_path).attribution)
    return settings.within(run_data(plan.run_path).count("train"))


def rows_inside(parts: list[CurvatureRows], chunk: Chunk) -> list[CurvatureRows]:
    """Those of a chunk, numbered from its first row."""
    found = []
    for part in parts:
        rows = part.rows - chunk.first
        rows = rows[(rows >= 0) & (rows < chunk.rows)]
        if len(rows):
            found.append(CurvatureRows(part.checkpoint, rows))
    return found


def product_leaf(plan: Plan, chunks: list[ChunkRows], directions: Path) -> Tensors:
    """Σ of the products over some rows of some chunks, each at its checkpoint."""
    return row_sums(plan, chunks, directions, gauss_newton_products)


def form_leaf(plan: Plan, chunks: list[ChunkRows], directions: Path) -> Tensors:
    """Σ of the forms, `[queries]`."""
    return row_sums(plan, chunks, directions, lambda *given: {FORMS: gauss_newton_forms(*given)})


def row_sums(
    plan: Plan, chunks: list[ChunkRows], directions: Path, function: Callable[..., Tensors]
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
