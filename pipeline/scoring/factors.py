"""The stage `factors`: EK-FAC factors of every segment and the validation query, as sums over chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.artifacts import Step
from pipeline.attribution.curvature.eigenbases import (
    eigenbases,
    eigenbases_from_tensors,
    eigenbases_to_tensors,
)
from pipeline.attribution.curvature.factor_sums import FactorSums, add_into
from pipeline.attribution.curvature.fit import FactorTask, fit_covariances, fit_spectrum
from pipeline.attribution.curvature.gauss_newton import gauss_newton_form
from pipeline.attribution.curvature.segments import query_filters
from pipeline.attribution.methods import find_method
from pipeline.attribution.model.capture import coverage, covered_layers
from pipeline.attribution.queries.gradients import mean_gradient_sums
from pipeline.attribution.queries.scale import scale_correction
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import Chunk
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import write_json
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.groups import cell_rows, find_groups, groups_path, scored_groups
from pipeline.scoring.plan import (
    Plan,
    attribution_model,
    batch_of,
    batches,
    chunk_groups,
    plans,
    under,
    weighted_rows,
)
from pipeline.scoring.refine import SOLVED_NUMBERS, refined_of, refined_query
from pipeline.seeds import random_state
from pipeline.workers.kept import keep_tensors
from pipeline.workers.sums import Tensors, forget, summed
from pipeline.workers.worker import plain_objective, run_budgets, run_config, run_data, run_objective

SCALE_ROWS = 1024


def factors(context: AuditContext) -> dict[str, Any]:
    """Fit the factors of every segment of every plan on the workers; returns the facts for the record.

    Raises InputError when the model has no layer that attribution covers; AttributionError that names the layer
    when a factor has a NaN.
    """
    path, config = context.run.path, context.config
    model = attribution_model(path)
    layers, covered = covered_layers(model), coverage(model)
    if not layers:
        raise InputError(
            "the model has no layer that attribution covers",
            "Use Linear, convolution, Embedding or attention layers.",
        )
    todo = plans(path, config, context.run.facts("train")["early_epoch"])
    whole = todo[0]
    groups, note = find_groups(path, covered.covered)
    if groups is not None:
        groups.save(groups_path(path))
    for plan in todo:
        fit(context, plan)
    return {
        "method": whole.method,
        "alpha": whole.alpha(),
        "refined": None if whole.alpha() is None or not whole.refined else asdict(refined_of(whole)),
        "layers": len(layers),
        "checkpoints": len(whole.trajectory().checkpoints),
        "segments": config.attribution.segments,
        "query_at": config.attribution.query_at,
        "plans": [plan.name for plan in todo],
        "group_cells": 0 if groups is None else len(groups.cells),
        "group_note": note,
        "coverage": {
            "covered": covered.covered,
            "total": covered.total,
            "share": covered.share,
            "uncovered": covered.uncovered,
        },
    }


def fit(context: AuditContext, plan: Plan) -> None:
    """Two passes over the train rows and one over validation, each a sum over groups of chunks."""
    data = run_data(plan.run_path)
    groups = chunk_groups(data.chunks("train"))
    queries = chunk_groups(data.chunks("validation"))
    total, done = 2 * len(groups) + len(queries), 0
    what = "factors" if plan.name == "whole" else f"factors ({plan.name} window)"

    def tick(_: int) -> None:
        nonlocal done
        done += 1
        context.progress(what, done, total, "passes over a part")

    parts = plan.directory / "parts"
    bases = parts / "bases.safetensors"
    if find_method(plan.method).points == "mean":
        context.workers.run(write_means, [(plan,)], [f"{what}: mean weights"])
    if not all(plan.segment_path(segment).exists() for segment in range(plan.segments)):
        tasks = [(plan, group) for group in groups]
        if not bases.exists():
            sums = summed(
                context.workers, covariance_leaf, tasks, parts / "covariance", f"{what}: covariance", tick
            )
            context.workers.run(write_bases, [(plan, sums, bases)], [f"{what}: eigenvectors"])
        spectra = summed(
            context.workers,
            spectrum_leaf,
            [(*t, bases) for t in tasks],
            parts / "spectrum",
            f"{what}: spectrum",
            tick,
        )
        write_segments(plan, bases, spectra)
    query = Step(plan.query_path, plan.scale_path)
    if queries and not query.done:
        tasks = [(plan, group) for group in queries]
        sums = summed(
            context.workers, query_leaf, tasks, parts / "query", f"{what}: validation gradient", tick
        )
        if plan.refined:
            write_refined(context, plan, sums, parts / "refined")
        else:
            context.workers.run(write_filters, [(plan, sums)], [f"{what}: validation query"])
            if plan.segments == 1 and plan.planned()[0].damping is not None:
                write_scale(context, plan)
        query.finish()
    groups_wanted = plan.name == "whole" and scored_groups(plan.run_path) is not None
    if groups_wanted and not plan.group_query_path.exists():
        tasks, name = [(plan, group) for group in queries], f"{what}: gradients of groups"
        sums = summed(context.workers, group_leaf, tasks, parts / "groups", name)
        if plan.refined:
            write_refined_groups(context, plan, sums, parts / "refined-groups")
        else:
            context.workers.run(write_group_filters, [(plan, sums)], [f"{what}: queries of groups"])
    forget(parts)


def write_means(plan: Plan) -> None:
    """The means of checkpoints at which the method takes gradients (a task for a worker)."""
    plan.planned()


def segment_tasks(plan: Plan) -> list[FactorTask]:
    """What the two passes over each segment need on this worker."""
    model, config = attribution_model(plan.run_path), run_config(plan.run_path).attribution
    objective = run_objective(plan.run_path)

    def load(checkpoint: int) -> None:
        plan.load_checkpoint(model, checkpoint)

    group_bytes = run_budgets(plan.run_path).group
    return [
        FactorTask(
            model,
            load,
            objective,
            segment.points,
            config.seed,
            config.labels,
            segment.conditioners,
            group_bytes,
        )
        for segment in plan.planned()
    ]


def rows_of(plan: Plan, chunks: list[Chunk]) -> Iterator[Batch]:
    for chunk in chunks:
        yield from batches(plan.run_path, chunk)


def covariance_leaf(plan: Plan, chunks: list[Chunk]) -> Tensors:
    """Covariance sums of every segment over these chunks and the segment's checkpoints."""
    total: Tensors = {}
    share = run_config(plan.run_path).attribution.covariance_sample
    for place, task in enumerate(segment_tasks(plan)):
        sums = fit_covariances(task, rows_of(plan, chunks), sample=share)
        total |= {f"{place}/{name}": tensor for name, tensor in sums.to_tensors().items()}
    return total


def write_bases(plan: Plan, sums: Path, path: Path) -> None:
    tensors, widest = load_file(sums), run_config(plan.run_path).attribution.widest_block
    bases: Tensors = {}
    for segment in range(plan.segments):
        found = FactorSums.from_tensors(under(f"{segment}/", tensors))
        fitted = eigenbases_to_tensors(eigenbases(found, widest))
        bases |= {f"{segment}/{name}": tensor for name, tensor in fitted.items()}
        bases[f"{segment}/examples"] = torch.tensor(found.examples)
    save_tensors(path, bases)


def spectrum_leaf(plan: Plan, chunks: list[Chunk], bases_path: Path) -> Tensors:
    """Sums of squared gradients in the segment's eigenbasis over these chunks and the segment's checkpoints."""
    tensors = keep_tensors(bases_path, lambda: load_file(bases_path), run_budgets(plan.run_path).weights)
    total: Tensors = {}
    for place, task in enumerate(segment_tasks(plan)):
        bases = eigenbases_from_tensors(under(f"{place}/", tensors))
        sums = fit_spectrum(task, rows_of(plan, chunks), bases)
        total |= {f"{place}/{name}": tensor for name, tensor in sums.items()}
    return total


def write_segments(plan: Plan, bases_path: Path, spectra_path: Path) -> None:
    bases, spectra = load_file(bases_path), load_file(spectra_path)
    for segment in range(plan.segments):
        basis = under(f"{segment}/", bases)
        examples = int(basis.pop("examples"))
        values = {f"eigenvalues/{k}": v / examples for k, v in under(f"{segment}/", spectra).items()}
        save_tensors(plan.segment_path(segment), {f"basis/{k}": v for k, v in basis.items()} | values)


def query_leaf(plan: Plan, chunks: list[Chunk]) -> Tensors:
    """Σ of the validation rows' loss gradients, layer by layer, at the query's weights."""
    model, objective = attribution_model(plan.run_path), plain_objective(plan.run_path)
    restore_weights(model, plan.query_weights())
    total: Tensors = {}
    for batch in rows_of(plan, chunks):
        add_into(total, mean_gradient_sums(model, objective, batch.inputs, batch.labels))
    return total


def write_filters(plan: Plan, sums: Path) -> None:
    """The mean validation gradient, carried back through the segments (Eq. 24)."""
    rows = run_data(plan.run_path).count("validation")
    query = {name: total / rows for name, total in load_file(sums).items()}
    found = query_filters(query, plan.prepared_segments())
    save_tensors(
        plan.query_path, {f"{s}/{name}": t for s, each in enumerate(found) for name, t in each.items()}
    )


def group_leaf(plan: Plan, chunks: list[Chunk]) -> Tensors:
    """Σ of the gradients of every cell's validation rows, as in `query_leaf`: `cell/layer` → `[out, in]`."""
    model, objective, path = attribution_model(plan.run_path), plain_objective(plan.run_path), plan.run_path
    restore_weights(model, plan.query_weights())
    groups, size = scored_groups(path), run_config(path).attribution.batch_size
    assert groups is not None
    total: Tensors = {}
    for chunk in chunks:
        rows = weighted_rows(path, chunk)
        for cell, places in enumerate(cell_rows(path, groups.cells, chunk.first, chunk.rows)):
            for start in range(0, len(places), size):
                batch = batch_of(path, rows.select(torch.from_numpy(places[start : start + size])))
                sums = mean_gradient_sums(model, objective, batch.inputs, batch.labels)
                add_into(total, {f"{cell}/{name}": tensor for name, tensor in sums.items()})
    return total


def write_group_filters(plan: Plan, sums: Path) -> None:
    """The mean gradient of every cell, carried back as the validation query is, in float32."""
    found: Tensors = {}
    for name, means in cell_means(plan, sums).items():
        for segment, filters in enumerate(query_filters({name: means}, plan.prepared_segments())):
            found[f"{segment}/{name}"] = filters[name].float()
    save_tensors(plan.group_query_path, found)


def cell_means(plan: Plan, sums: Path) -> Tensors:
    """Layer → the mean gradient of every cell, `[cells, out, in]`."""
    groups, tensors = scored_groups(plan.run_path), load_file(sums)
    assert groups is not None
    return {
        name: torch.stack([tensors[f"{place}/{name}"] / cell.rows for place, cell in enumerate(groups.cells)])
        for name in under("0/", tensors)
    }


def write_refined(context: AuditContext, plan: Plan, sums: Path, folder: Path) -> None:
    """The query's filters in nats, and the α that they hold."""
    rows = run_data(plan.run_path).count("validation")
    query = {name: total / rows for name, total in load_file(sums).items()}
    found = refined_query(context, plan, query, folder, "factors: refined query")
    write_json(plan.scale_path, {"alpha": float(found.alpha), "rows": refined_of(plan).scale_rows})
    save_tensors(plan.query_path, {f"0/{name}": filters for name, filters in found.filters.items()})


def write_refined_groups(context: AuditContext, plan: Plan, sums: Path, folder: Path) -> None:
    """Those of every cell, in float32, each with an α of its own; as many at once as SOLVED_NUMBERS allow."""
    means, name = cell_means(plan, sums), "factors: refined queries of groups"
    cells = len(next(iter(means.values())))
    step = max(1, SOLVED_NUMBERS * cells // sum(each.numel() for each in means.values()))
    found: list[Tensors] = []
    for first in range(0, cells, step):
        some = {layer: each[first : first + step] for layer, each in means.items()}
        filters = refined_query(context, plan, some, folder / f"cell-{first}", name).filters
        found.append({f"0/{layer}": each.float() for layer, each in filters.items()})
    save_tensors(plan.group_query_path, {key: torch.cat([each[key] for each in found]) for key in found[0]})


def write_scale(context: AuditContext, plan: Plan) -> None:
    """α, the scale correction of validation harm, from seeded random rows spread evenly over the checkpoints."""
    data, seed = run_data(plan.run_path), run_config(plan.run_path).attribution.seed
    order = random_state("scale rows", seed).permutation(data.count("train"))[:SCALE_ROWS]
    tasks, names = [], []
    for chunk in data.chunks("train"):
        inside = chunk.holds(order)
        if len(inside):
            tasks.append((plan, chunk, order[inside] - chunk.first, inside))
            names.append(f"factors: scale, chunk {chunk.id}")
    form = sum(context.workers.run(form_of_chunk, tasks, names)) / len(order)
    segment, damping = plan.prepared_segments()[0], plan.planned()[0].damping
    assert damping is not None
    alpha = scale_correction(segment, plan.query_filters()[0], form, damping)
    write_json(plan.scale_path, {"alpha": alpha, "rows": len(order)})


def form_of_chunk(plan: Plan, chunk: Chunk, rows: np.ndarray, turns: np.ndarray) -> float:
    """Σ ⟨x, G x⟩ over some rows of a chunk, each at the checkpoint that its turn gives it (a task for a worker)."""
    path = plan.run_path
    model, objective, direction = attribution_model(path), run_objective(path), plan.query_filters()[0]
    checkpoints = plan.planned()[0].points
    chosen, total = weighted_rows(path, chunk), 0.0
    for place, checkpoint in enumerate(checkpoints):
        mine = torch.from_numpy(rows[turns % len(checkpoints) == place])
        if len(mine):
            plan.load_checkpoint(model, checkpoint)
            batch = batch_of(path, chosen.select(mine))
            total += gauss_newton_form(model, objective, batch, direction)
    return total
