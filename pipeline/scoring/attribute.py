"""The stage `attribute`: computes all scores of a chunk's rows with one forward and backward pass per checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipeline.attribution.model.precision import matrix_products
from pipeline.attribution.rows.batch import Batch
from pipeline.attribution.scores.conductor import score_chains
from pipeline.attribution.scores.rows import BatchScores
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.data.encoded import Chunk
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import write_atomically
from pipeline.scoring.ensemble import average_scores
from pipeline.scoring.features import FEATURES, compared
from pipeline.scoring.groups import scored_groups
from pipeline.scoring.misfits import recorded_misfits, told_apart
from pipeline.scoring.plan import ScoringPlan, attribution_model, batch_of, batches, plans, weighted_rows
from pipeline.seeds import random_state
from pipeline.workers.worker import run_budgets, run_config, run_data, run_objective

PRECISION_ROWS = 256


def scores_path(run_path: Path, chunk: Chunk) -> Path:
    return run_path / "scores" / f"chunk-{chunk.id}.parquet"


def _own_scores_path(run_path: Path, chunk: Chunk) -> Path:
    """The file of the audit's own scores, before they are averaged with those of other trainings."""
    return run_path / "scores" / "own" / f"chunk-{chunk.id}.parquet"


def attribute(context: AuditContext) -> dict[str, Any]:
    """Score every train chunk on the workers and write a file for each; returns the facts of the stage."""
    path = context.run.path
    data = run_data(path)
    todo = plans(path, context.config, context.run.facts("train")["early_epoch"])
    chunks = data.chunks("train")
    ensemble = context.config.attribution.ensemble
    place_of = scores_path if ensemble == 1 else _own_scores_path
    waiting = [chunk for chunk in chunks if not place_of(path, chunk).exists()]
    rows, done = data.count("train"), data.count("train") - sum(chunk.rows for chunk in waiting)

    def tick(place: int, _: None) -> None:
        nonlocal done
        done += waiting[place].rows
        context.progress("attribute", done, rows, "rows")

    precision, groups = context.config.attribution.precision, scored_groups(path)
    error = None
    if precision != "float32":
        error = context.workers.run(precision_error, [(todo[0],)], [f"attribute: error of {precision}"])[0]
    misfits: list[str] = []
    if told_apart(context.config, todo[0]):
        misfits = context.workers.run(recorded_misfits, [(todo[0],)], ["attribute: the recorded losses"])[0]
    tasks = [(todo, chunk, place_of(path, chunk)) for chunk in waiting]
    context.workers.run(_score_chunk, tasks, [f"attribute: chunk {chunk.id}" for chunk in waiting], tick)
    if ensemble > 1:
        members = [context.repeat(context, number).run.path for number in range(2, ensemble + 1)]
        for chunk in chunks:
            of_chunk = [_own_scores_path(path, chunk), *(scores_path(member, chunk) for member in members)]
            average_scores(of_chunk, scores_path(path, chunk))
    return {
        "ensemble": ensemble,
        "rows": rows,
        "chunks": len(chunks),
        "early_harm": len(todo) > 1,
        "precision": precision,
        "precision_error": error,
        "groups": [] if groups is None else groups.as_json(),
        "misfits": misfits,
    }


def _score_chunk(todo: list[ScoringPlan], chunk: Chunk, target: Path) -> None:
    """Write the scores of a chunk to `target`, one line per row in the order of the chunk (a task for a worker).

    The columns are:

    - row_id: int64.
    - self_influence, validation_harm, early_harm: float64, in nats. The harms are null without validation rows, and
      early_harm is also null if the early window is the whole run.
    - checkpoint_loss, checkpoint_margin: fixed_size_list<float32>, one number for each point at which the method takes
      gradients; the margin is null for regression.
    - group_harm: fixed_size_list<float32>[K], in nats, for the stage's `groups` in their order; null without groups.
    - final_loss: float64, at the last checkpoint.
    - prediction: class index, standardised target or set (fixed_size_list<uint8>[labels]), at the tail average.
    """
    path, whole = todo[0].run_path, todo[0]
    parts = list(batches(path, chunk))
    scores = score(whole, parts, self_influence=True)
    early = score(todo[1], parts, self_influence=False).harm["validation"] if len(todo) > 1 else None
    harm = scores.harm.get("validation")
    if harm is not None:
        harm = harm * whole.scale()
    columns = {
        "row_id": torch.cat([batch.row_ids for batch in parts]).cpu(),
        "self_influence": scores.self_influence,
        "validation_harm": harm,
        "early_harm": early,
        "final_loss": _final_losses(whole, parts, scores),
        "prediction": predictions(whole, parts),
    }
    arrays = {name: _to_arrow(values, chunk.rows) for name, values in columns.items()}
    groups = scored_groups(path)
    of_groups = (
        None if groups is None else torch.from_numpy(groups.shares()) @ scores.harm["cells"] * whole.scale()
    )
    arrays["group_harm"] = _to_lists(of_groups, chunk.rows)
    arrays["checkpoint_loss"] = _to_lists(scores.losses, chunk.rows)
    arrays["checkpoint_margin"] = _to_lists(scores.margins, chunk.rows)
    with write_atomically(target) as temporary:
        pq.write_table(pa.table(arrays), temporary)


def score(
    plan: ScoringPlan, parts: list[Batch], self_influence: bool, precision: str | None = None
) -> BatchScores:
    """Score some batches of rows, at the configured precision or at `precision`."""
    model, config = attribution_model(plan.run_path), run_config(plan.run_path).attribution
    queries: dict[str, list[dict[str, Tensor]]] = {}
    if plan.query_path.exists():
        queries["validation"] = plan.query_filters()
    if plan.group_query_path.exists():
        queries["cells"] = plan.group_filters()
    with matrix_products(precision or config.precision):
        if plan.similarity is not None:
            features = {name: found[FEATURES] for name, (found,) in queries.items()}
            return compared(plan, parts, features, self_influence)
        return score_chains(
            model,
            lambda checkpoint: plan.load_checkpoint(model, checkpoint),
            run_objective(plan.run_path),
            parts,
            plan.by_chain(plan.prepared_segments()),
            plan.trajectory().train_rows,
            {name: plan.by_chain(filters) for name, filters in queries.items()},
            self_influence=self_influence,
            self_influence_tolerance=config.self_influence_tolerance,
            held_bytes=run_budgets(plan.run_path).gradients,
        )


def precision_error(plan: ScoringPlan) -> dict[str, Any]:
    """Measure how much the configured precision changes the scores of random rows (a task for a worker).

    Returns:
        rows: how many rows were compared. self_influence, validation_harm: the largest difference from float32 divided
        by the largest score; validation_harm is None without validation rows.
    """
    data, seed = run_data(plan.run_path), run_config(plan.run_path).attribution.seed
    order = random_state("precision rows", seed).permutation(data.count("train"))[:PRECISION_ROWS]
    parts = []
    for chunk in data.chunks("train"):
        inside = order[chunk.holds(order)] - chunk.first
        if len(inside):
            parts.append(
                batch_of(plan.run_path, weighted_rows(plan.run_path, chunk).select(torch.from_numpy(inside)))
            )
    exact, found = (score(plan, parts, self_influence=True, precision=p) for p in ("float32", None))

    def error(name: str) -> float | None:
        one, two = (
            s.self_influence if name == "self_influence" else s.harm.get("validation") for s in (exact, found)
        )
        if one is None or two is None:
            return None
        return float((one - two).abs().max() / one.abs().max().clamp(min=1e-300))

    return {"rows": len(order)} | {name: error(name) for name in ("self_influence", "validation_harm")}


def _final_losses(plan: ScoringPlan, parts: list[Batch], scores: BatchScores) -> Tensor:
    """The losses at the last checkpoint without row weights, float64 `[rows]`; not every method visits it."""
    last = len(plan.trajectory().checkpoints) - 1
    planned = plan.planned()
    if planned and planned[-1].points[-1] == last:
        return scores.losses[-1]
    model, objective = attribution_model(plan.run_path), run_objective(plan.run_path)
    plan.load_checkpoint(model, last)
    model.eval()
    with torch.no_grad():
        found = [objective.losses(model(batch.inputs), batch.labels) for batch in parts]
    return torch.cat(found).double().cpu()


def predictions(plan: ScoringPlan, parts: list[Batch]) -> Tensor:
    model = attribution_model(plan.run_path)
    restore_weights(model, plan.end_weights())
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(batch.inputs).cpu() for batch in parts])
    return run_data(plan.run_path).encoding.target.predictions(outputs)


def _to_arrow(values: Tensor | None, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, pa.float64())
    flat = pa.array(values.numpy().reshape(-1))
    return flat if values.dim() == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _to_lists(values: Tensor | None, rows: int) -> pa.Array:
    """Turn `[checkpoints, rows]` into one list per row; None gives nulls."""
    if values is None:
        return pa.nulls(rows, pa.list_(pa.float32(), 1))
    flat = pa.array(np.ascontiguousarray(values.T.numpy().astype(np.float32)).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[0])
