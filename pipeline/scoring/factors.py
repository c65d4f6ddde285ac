"""The stage `factors`: fits the EK-FAC factors of every segment and the validation query, as sums over chunks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from safetensors.torch import load_file

from pipeline.artifacts import Step
from pipeline.attribution.curvature.fit import fit as fit_curvature
from pipeline.attribution.curvature.fit import segment_tensors
from pipeline.attribution.model.capture import coverage, covered_layers
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext
from pipeline.runs.tensors import save_tensors
from pipeline.scoring.features import INVERSE, METRIC, inverse_metric_of, metric_of
from pipeline.scoring.groups import find_groups, groups_path, scored_groups
from pipeline.scoring.plan import ScoringPlan, attribution_model, chunk_groups, plans
from pipeline.scoring.queries import (
    group_leaf,
    query_leaf,
    write_filters,
    write_group_filters,
    write_refined,
    write_refined_groups,
    write_scale,
)
from pipeline.scoring.refine import refined_of
from pipeline.scoring.row_sums import WorkerSums
from pipeline.workers.sums import forget, summed
from pipeline.workers.worker import run_data


def factors(context: AuditContext) -> dict[str, Any]:
    """Fit the factors of every segment of every plan on the workers.

    Returns:
        The facts of the stage for the run's record.

    Raises:
        InputError: the model has no layer that attribution covers.
        WinnowError: a factor has a NaN; the message names the layer.
    """
    path, config = context.run.path, context.config
    model = attribution_model(path)
    layers, covered = covered_layers(model), coverage(model, config.attribution.widest_outputs)
    if not layers:
        raise InputError(
            "the model has no layer that attribution covers",
            "Use Linear, convolution, Embedding or attention layers.",
        )
    todo = plans(path, config, context.run.facts("train")["early_epoch"])
    whole = todo[0]
    gradients = len(whole.trajectory().checkpoints) if whole.method.apart else 1
    groups, note = find_groups(path, covered.covered * gradients)
    if groups is not None:
        groups.save(groups_path(path))
    for plan in todo:
        fit(context, plan)
    return {
        "method": whole.method_name,
        "alpha": whole.alpha(),
        "refined": None if whole.alpha() is None or not whole.method.refined else asdict(refined_of(whole)),
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
            "approximated": covered.approximated,
        },
    }


def fit(context: AuditContext, plan: ScoringPlan) -> None:
    """Fit one plan: two passes over the train rows and one over the validation rows, as sums over groups of chunks."""
    data = run_data(plan.run_path)
    groups = chunk_groups(data.chunks("train"))
    queries = chunk_groups(data.chunks("validation"))
    passes = 2 * plan.method.fitted + (plan.similarity is not None and plan.similarity.metric is not None)
    total, done = passes * len(groups) + len(queries), 0
    what = "factors" if plan.name == "whole" else f"factors ({plan.name} window)"

    def tick(_: int) -> None:
        nonlocal done
        done += 1
        context.progress(what, done, total, "passes over a part")

    parts = plan.directory / "parts"
    if plan.method.points == "mean":
        context.workers.run(_write_means, [(plan,)], [f"{what}: mean weights"])
    places = range(len(plan.planned())) if plan.method.fitted else range(0)
    if not all(plan.segment_path(place).exists() for place in places):
        bases, squares = map(load_file, fit_curvature(WorkerSums(context, plan, parts, what, tick)))
        for place in places:
            save_tensors(plan.segment_path(place), segment_tensors(bases, squares, place))
    if plan.similarity is not None and plan.similarity.metric is not None and not plan.inverse_path.exists():
        rows = WorkerSums(context, plan, parts, what, tick)
        inverse = rows.derive(INVERSE, inverse_metric_of, rows.total(METRIC, metric_of))
        save_tensors(plan.inverse_path, load_file(inverse))
    query = Step(plan.query_path, plan.scale_path)
    if queries and not query.done:
        tasks = [(plan, group) for group in queries]
        sums = summed(
            context.workers, query_leaf, tasks, parts / "query", f"{what}: validation gradient", tick
        )
        if plan.method.refined:
            write_refined(context, plan, sums, parts / "refined")
        else:
            context.workers.run(write_filters, [(plan, sums)], [f"{what}: validation query"])
        write_scale(context, plan)
        query.finish()
    groups_wanted = plan.name == "whole" and scored_groups(plan.run_path) is not None
    if groups_wanted and not plan.group_query_path.exists():
        tasks, name = [(plan, group) for group in queries], f"{what}: gradients of groups"
        sums = summed(context.workers, group_leaf, tasks, parts / "groups", name)
        if plan.method.refined:
            write_refined_groups(context, plan, sums, parts / "refined-groups")
        else:
            context.workers.run(write_group_filters, [(plan, sums)], [f"{what}: queries of groups"])
    forget(parts)


def _write_means(plan: ScoringPlan) -> None:
    """Write the means of checkpoints at which the method takes gradients (a task for a worker)."""
    plan.chains()
