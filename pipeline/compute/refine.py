"""`source_refined` on the workers: products with the true Gauss–Newton matrix are sums over chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from pipeline.attribution.factors import add_into
from pipeline.attribution.gauss_newton import gauss_newton_forms, gauss_newton_products
from pipeline.attribution.refined import (
    CurvatureRows,
    RefinedDirection,
    RefinedSettings,
    refined_rows,
    row_count,
    solve_refined,
)
from pipeline.attribution.row_derivatives import PASS_ROWS
from pipeline.compute.plan import Plan, attribution_model, batch_of, weighted_rows
from pipeline.compute.sums import Tensors, summed
from pipeline.compute.worker import run_config, run_data, run_objective
from pipeline.context import AuditContext
from pipeline.data.encoded import Chunk
from pipeline.training.state import save_tensors

FORMS = "forms"
"""The name under which forms, which belong to no layer, are summed."""


def refined_query(
    context: AuditContext, plan: Plan, query: Tensors, folder: Path, name: str
) -> RefinedDirection:
    """The filters of a query or several, in nats; the solve itself is done here, in float64.

    query: layer → `[out, in]` or `[queries, out, in]`. folder: for partial sums, of which the caller disposes.
    """
    data, settings = run_data(plan.run_path), refined_settings(plan)
    planned = plan.planned()[0]
    assert planned.damping is not None  # learning rates are above 0
    own, fresh = refined_rows(data.count("train"), planned.points, settings)
    turn = 0

    def chunk_sums(leaf: Callable[..., Tensors], parts: list[CurvatureRows], directions: Tensors) -> Tensors:
        nonlocal turn
        turn += 1
        path = folder / f"directions-{turn}.safetensors"
        save_tensors(path, directions)
        tasks = [
            (plan, chunk, mine, path) for chunk in data.chunks("train") if (mine := rows_inside(parts, chunk))
        ]
        sums = summed(context.workers, leaf, tasks, folder / f"product-{turn}", f"{name}: product {turn}")
        return {layer: total / row_count(parts) for layer, total in load_file(sums).items()}

    return solve_refined(
        lambda directions: chunk_sums(product_leaf, own, directions),
        lambda directions: chunk_sums(form_leaf, fresh, directions)[FORMS],
        plan.prepared_segments()[0],
        query,
        planned.damping,
        settings,
    )


def refined_settings(plan: Plan) -> RefinedSettings:
    return RefinedSettings(seed=run_config(plan.run_path).attribution.seed)


def rows_inside(parts: list[CurvatureRows], chunk: Chunk) -> list[CurvatureRows]:
    """Those of a chunk, numbered from its first row."""
    found = []
    for part in parts:
        rows = part.rows - chunk.first
        rows = rows[(rows >= 0) & (rows < chunk.rows)]
        if len(rows):
            found.append(CurvatureRows(part.checkpoint, rows))
    return found


def product_leaf(plan: Plan, chunk: Chunk, parts: list[CurvatureRows], directions: Path) -> Tensors:
    """Σ of the products over some rows of a chunk, each at its checkpoint."""
    return row_sums(plan, chunk, parts, directions, gauss_newton_products)


def form_leaf(plan: Plan, chunk: Chunk, parts: list[CurvatureRows], directions: Path) -> Tensors:
    """Σ of the forms, `[queries]`."""
    return row_sums(plan, chunk, parts, directions, lambda *given: {FORMS: gauss_newton_forms(*given)})


def row_sums(
    plan: Plan,
    chunk: Chunk,
    parts: list[CurvatureRows],
    directions: Path,
    function: Callable[..., Tensors],
) -> Tensors:
    model, objective = attribution_model(plan.run_path), run_objective(plan.run_path)
    rows, total = weighted_rows(plan.run_path, chunk), Tensors()
    along = load_file(directions, device=str(next(model.parameters()).device))
    for part in parts:
        plan.load_checkpoint(model, part.checkpoint)
        for some in part.rows.split(PASS_ROWS):
            batch = batch_of(plan.run_path, rows.select(some))
            add_into(total, function(model, objective, batch, along))
    return total
