"""Queries of a trace that are solved for with the true Gauss–Newton matrix, in the main process; products are tasks."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from pipeline.attribution.queries.compression import compressed_segment
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.config import Attribution
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext
from pipeline.scoring.plan import Plan, attribution_model
from pipeline.scoring.refine import REFINED, SOLVED_NUMBERS, refined_query
from pipeline.trace.tasks import (
    Work,
    loss_gradients,
    parameter_count,
    read_part,
    write_filters,
)
from pipeline.workers.sums import forget
from pipeline.workers.worker import run_device

SOLVED_TOGETHER = 32
"""Queries of a part, if the model is small: more share the tasks, but make a pass over the rows smaller."""
PLAIN = "source"
LEAVE_OUT = "Leave --refined out"


def check_refined(run_path: Path, config: Attribution) -> None:
    """Raises InputError for a run whose queries can't be solved for."""
    if config.method not in (PLAIN, REFINED):
        raise InputError(
            f"--refined refines SOURCE, and attribution.method of the run is {config.method}",
            f"{LEAVE_OUT}, or audit with --set attribution.method={REFINED}.",
        )
    if config.segments > 1:
        raise InputError(
            f"--refined needs one segment of training, and attribution.segments of the run is {config.segments}",
            f"{LEAVE_OUT}, or audit with --set attribution.segments=1.",
        )
    if Plan("whole", run_path, 1).planned()[0].damping is None:
        raise InputError("--refined needs learning rates above 0, and the run has none", f"{LEAVE_OUT}.")


def solved_at_once(run_path: Path) -> int:
    """How many queries are a part: their dense filters are in memory together."""
    return min(SOLVED_TOGETHER, max(1, SOLVED_NUMBERS // parameter_count(attribution_model(run_path))))


def refine_part(context: AuditContext, work: Work, part: int) -> None:
    """Compressed filters, in nats, of queries that were answered."""
    plan, folder = work.plan, work.folder / f"refined-{part}"
    inputs, _ = read_part(work, part)
    labels = load_file(work.answers_path(part), device=str(run_device(work.run_path)))["labels"]
    restore_weights(attribution_model(work.run_path), plan.query_weights())
    gradients = {name: each.cpu() for name, each in loss_gradients(work, inputs, labels).items()}
    name = f"trace: refined query {work.rows_of(part).start:,} and following"
    solved = refined_query(context, plan, gradients, folder, name).filters
    forget(folder)
    write_filters(work, part, [[compressed_segment(solved, plan.prepared_segments()[0], work.tolerance)]])
