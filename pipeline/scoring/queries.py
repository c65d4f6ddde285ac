"""The validation query and the queries of groups: gradients as sums over chunks, filters, and the scale α."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.attribution.curvature.factor_sums import add_into
from pipeline.attribution.curvature.gauss_newton import gauss_newton_form
from pipeline.attribution.queries.compression import joined_filters
from pipeline.attribution.queries.curvature_rows import (
    SCALE_ROWS,
    CurvatureRows,
    row_count,
    rows_inside,
    scale_rows,
)
from pipeline.attribution.queries.gradients import mean_gradient_sums
from pipeline.attribution.queries.scale import scale_correction
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.conductor import Filters, FoundFilters, find_filters, find_scale
from pipeline.attribution.trajectory.weights import under
from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import write_json
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.features import query_features
from pipeline.scoring.groups import cell_rows, scored_groups
from pipeline.scoring.plan import ScoringPlan, attribution_model, batch_of, weighted_rows
from pipeline.scoring.refine import SOLVED_NUMBERS, refined_of, solver
from pipeline.scoring.row_sums import rows_of
from pipeline.seeds import random_state
from pipeline.workers.sums import Tensors
from pipeline.workers.worker import plain_objective, run_config, run_data, run_objective


def _add_queries(
    total: Tensors, plan: ScoringPlan, batches: Callable[[], Iterable[Batch]], before: str = ""
) -> None:
    """Add Σ of the queries' loss gradients to `total`, as `<chain>/<layer>` → `[out, in]`.

    Every chain takes the gradients at its own weights. For methods that compare features, Σ of the features is added.

    Args:
        total: is changed in place.
        plan: what is attributed.
        batches: gives the batches of the queries, anew for every chain.
        before: prefix of the names.
    """
    model, objective = attribution_model(plan.run_path), plain_objective(plan.run_path)
    for number, chain in enumerate(plan.chains()):
        plan.load_query_point(model, chain)
        for batch in batches():
            if plan.similarity is None:
                sums = mean_gradient_sums(model, objective, batch.inputs, batch.labels)
            else:
                sums = query_features(plan, batch, objective)
            add_into(total, {f"{before}{number}/{name}": each for name, each in sums.items()})


def query_leaf(plan: ScoringPlan, chunks: list[Chunk]) -> Tensors:
    """The sums of `_add_queries` over the validation rows of some chunks."""
    total: Tensors = {}
    _add_queries(total, plan, lambda: rows_of(plan, chunks))
    return total


def _validation_gradients(plan: ScoringPlan, sums: Path) -> list[Tensors]:
    """The mean validation gradient of every chain."""
    rows, tensors = run_data(plan.run_path).count("validation"), load_file(sums)
    return [
        {name: total / rows for name, total in under(f"{number}/", tensors).items()}
        for number in range(len(plan.chains()))
    ]


def write_filters(plan: ScoringPlan, sums: Path) -> None:
    """Write the filters of the validation query (a task for a worker)."""
    found = [
        dense(find_filters(plan.method, chain, gradient).filters)
        for chain, gradient in zip(plan.fitted_chains(), _validation_gradients(plan, sums), strict=True)
    ]
    _save_filters(plan.query_path, found)


def dense(filters: Filters) -> list[Tensors]:
    """The filters as dense tensors; the filters here are never compressed."""
    return [{name: each for name, each in one.items() if isinstance(each, Tensor)} for one in filters]


def _save_filters(path: Path, of_chains: Sequence[Sequence[Tensors]]) -> None:
    """Write the filters of all chains as `<segment>/<layer>`, with segments numbered as in `ScoringPlan.planned`."""
    of_segments = [filters for of_chain in of_chains for filters in of_chain]
    save_tensors(
        path,
        {f"{place}/{name}": each for place, some in enumerate(of_segments) for name, each in some.items()},
    )


def group_leaf(plan: ScoringPlan, chunks: list[Chunk]) -> Tensors:
    """The sums of `_add_queries` over every cell's validation rows in some chunks, as `<cell>/<chain>/<layer>`."""
    path, groups = plan.run_path, scored_groups(plan.run_path)
    assert groups is not None
    size, total = run_config(path).attribution.batch_size, Tensors()
    for chunk in chunks:
        rows = weighted_rows(path, chunk)
        for cell, places in enumerate(cell_rows(path, groups.cells, chunk.first, chunk.rows)):
            parts = [torch.from_numpy(places[at : at + size]) for at in range(0, len(places), size)]
            of_cell = [batch_of(path, rows.select(part)) for part in parts]
            if of_cell:
                _add_queries(total, plan, partial(iter, of_cell), f"{cell}/")
    return total


def write_group_filters(plan: ScoringPlan, sums: Path) -> None:
    """Write the filters of every cell in float32, layer by layer (a task for a worker)."""
    found: list[list[Tensors]] = []
    for chain, means in zip(plan.fitted_chains(), _cell_means(plan, sums), strict=True):
        of_chain: list[Tensors] = []
        for name, each in means.items():
            filters = dense(find_filters(plan.method, chain, {name: each}).filters)
            of_chain = of_chain or [{} for _ in filters]
            for mine, of_segment in zip(of_chain, filters, strict=True):
                mine[name] = of_segment[name].float()
        found.append(of_chain)
    _save_filters(plan.group_query_path, found)


def _cell_means(plan: ScoringPlan, sums: Path) -> list[Tensors]:
    """For every chain, layer → the mean gradients of all cells, `[cells, out, in]`."""
    groups, tensors = scored_groups(plan.run_path), load_file(sums)
    assert groups is not None
    return [
        {
            name: torch.stack(
                [tensors[f"{place}/{number}/{name}"] / cell.rows for place, cell in enumerate(groups.cells)]
            )
            for name in under(f"0/{number}/", tensors)
        }
        for number in range(len(plan.chains()))
    ]


def write_refined(context: AuditContext, plan: ScoringPlan, sums: Path, folder: Path) -> None:
    """Write the refined filters of the validation query, in nats, and the α that they contain.

    This is the α of the last segment, through which all other segments are solved; with several segments, all α are
    written as well.
    """
    (gradient,) = _validation_gradients(plan, sums)
    found = _solved(context, plan, gradient, folder, "factors: refined query")
    alphas = [float(alpha) for alpha in found.alphas]
    facts = {"alpha": alphas[-1], "rows": refined_of(plan).scale_rows}
    write_json(plan.scale_path, facts if len(alphas) == 1 else facts | {"alphas": alphas})
    _save_filters(plan.query_path, [dense(found.filters)])


def write_refined_groups(context: AuditContext, plan: ScoringPlan, sums: Path, folder: Path) -> None:
    """Write the refined filters of every cell in float32, each with its own α, in batches within SOLVED_NUMBERS."""
    (means,) = _cell_means(plan, sums)
    cells = len(next(iter(means.values())))
    step = max(1, SOLVED_NUMBERS * cells // sum(each.numel() for each in means.values()))
    parts: list[Filters] = []
    for first in range(0, cells, step):
        some = {layer: each[first : first + step] for layer, each in means.items()}
        name = "factors: refined queries of groups"
        parts.append(_solved(context, plan, some, folder / f"cell-{first}", name).filters)
    whole = [{name: each.float() for name, each in one.items()} for one in dense(joined_filters(parts))]
    _save_filters(plan.group_query_path, [whole])


def _solved(
    context: AuditContext, plan: ScoringPlan, gradient: Tensors, folder: Path, name: str
) -> FoundFilters:
    """Compute the filters of one or several queries, with sums over rows on the workers."""
    (chain,) = plan.fitted_chains()
    return find_filters(plan.method, chain, gradient, solver(context, plan, folder, name))


def write_scale(context: AuditContext, plan: ScoringPlan) -> None:
    """Write α, the scale correction of validation harm, if it is defined and the filters do not contain it."""
    if plan.method.refined:
        return
    alpha = find_scale(plan.method, plan.planned(), lambda: _measured_alpha(context, plan))
    if alpha is not None:
        rows = min(SCALE_ROWS, run_data(plan.run_path).count("train"))
        write_json(plan.scale_path, {"alpha": alpha, "rows": rows})


def _measured_alpha(context: AuditContext, plan: ScoringPlan) -> float:
    """Measure α on seeded random rows, with sums over chunks on the workers."""
    data, seed = run_data(plan.run_path), run_config(plan.run_path).attribution.seed
    order = torch.from_numpy(random_state("scale rows", seed).permutation(data.count("train")))
    parts, tasks, names = scale_rows(order, plan.planned()[0].points), [], []
    for chunk in data.chunks("train"):
        if mine := rows_inside(parts, chunk.first, chunk.rows):
            tasks.append((plan, chunk, mine))
            names.append(f"factors: scale, chunk {chunk.id}")
    form = sum(context.workers.run(_form_of_chunk, tasks, names)) / row_count(parts)
    segment, damping = plan.prepared_segments()[0], plan.planned()[0].damping
    assert damping is not None
    return scale_correction(segment, plan.query_filters()[0], form, damping)


def _form_of_chunk(plan: ScoringPlan, chunk: Chunk, parts: list[CurvatureRows]) -> float:
    """Σ ⟨x, G x⟩ over some rows of a chunk, numbered from its first row, each at its checkpoint (a worker's task)."""
    path = plan.run_path
    model, objective, direction = attribution_model(path), run_objective(path), plan.query_filters()[0]
    rows, total = weighted_rows(path, chunk), 0.0
    for part in parts:
        plan.load_checkpoint(model, part.checkpoint)
        batch = batch_of(path, rows.select(part.rows))
        total += gauss_newton_form(model, objective, batch, direction)
    return total
