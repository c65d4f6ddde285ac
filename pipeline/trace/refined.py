"""Solves for the queries of a trace with the true Gauss–Newton matrix: in the main process, with products as tasks."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.methods import audit_methods, refined_form
from pipeline.attribution.scores.conductor import check_solvable, find_filters
from pipeline.attribution.trajectory.weights import restore_weights
from pipeline.config import Attribution
from pipeline.errors import InputError
from pipeline.runs.context import AuditContext
from pipeline.scoring.plan import ScoringPlan, attribution_model
from pipeline.scoring.refine import SOLVED_NUMBERS, solver
from pipeline.trace.tasks import (
    TraceWork,
    loss_gradients,
    parameter_count,
    read_part,
    write_filters,
)
from pipeline.workers.sums import forget
from pipeline.workers.worker import run_device

SOLVED_TOGETHER = 32
"""Upper limit of queries in a part; more queries share a task, but leave less room for rows in a pass."""
LEAVE_OUT = "Leave --refined out"


def check_refined(run_path: Path, config: Attribution) -> None:
    """Check that refined solves are defined for a run.

    Raises:
        InputError: they are not; the message says why.
    """
    if refined_form(config.method) is None:
        known = " or ".join(name for name in audit_methods() if refined_form(name) == name)
        raise InputError(
            f"--refined refines SOURCE, and attribution.method of the run is {config.method}",
            f"{LEAVE_OUT}, or audit with --set attribution.method={known}.",
        )
    try:
        check_solvable(ScoringPlan("whole", run_path, config.segments).planned())
    except AttributionError as error:
        raise InputError(error.message, f"{LEAVE_OUT}.") from error


def solved_at_once(run_path: Path) -> int:
    """How many queries form a part; their dense filters are in memory together."""
    return min(SOLVED_TOGETHER, max(1, SOLVED_NUMBERS // parameter_count(attribution_model(run_path))))


def refine_part(context: AuditContext, work: TraceWork, part: int) -> None:
    """Solve for the queries of a part and write their compressed filters, in nats; `prepare_part` has run before."""
    plan, folder = work.plan, work.folder / f"refined-{part}"
    inputs, _ = read_part(work, part)
    labels = load_file(work.answers_path(part), device=str(run_device(work.run_path)))["labels"]
    restore_weights(attribution_model(work.run_path), plan.query_weights())
    gradients = {name: each.cpu() for name, each in loss_gradients(work, inputs, labels).items()}
    name = f"trace: refined query {work.rows_of(part).start:,} and following"
    (chain,) = plan.fitted_chains()
    solve = solver(context, plan, folder, name)
    found = find_filters(work.method, chain, gradients, solve, work.tolerance).filters
    forget(folder)
    write_filters(work, part, [found])
