"""What `winnow check` says of time, memory and disk."""

from __future__ import annotations

import shutil

import psutil

from pipeline.config import AuditConfig
from pipeline.preflight.estimate import Sizes, fidelity_retrainings, retrainings
from pipeline.preflight.result import OK, TOO_MUCH, CheckLine
from pipeline.runs.directory import RUNS
from pipeline.text import words
from pipeline.verification import unrolled
from pipeline.workers.budgets import budgets

WORKER_BYTES = 450 * 2**20  # memory of a worker process with its libraries and without data


def time_line(config: AuditConfig, sizes: Sizes, stages: dict[str, float]) -> CheckLine:
    """The line about time; `stages` has the seconds of each stage, from `stage_seconds`."""
    shown = [f"{name} {words.duration(seconds)}" for name, seconds in stages.items()]
    count = retrainings(config)
    made: list[str] = []
    if count:
        further = fidelity_retrainings(config, sizes.rows["validation"])
        more = f" and {words.count(further)} for fidelity" if further else ""
        made.append(f"{words.plural(count, 'retraining')}{more}")
    if config.verification.unrolled:
        cost = unrolled.trainings(config.training)
        made.append(f"exact differentiation, as long as {cost:.1f} trainings")
    if made:
        shown[-1] += f" ({'; '.join(made)})"
    return CheckLine("will take", f"{' · '.join(shown)}   on {words.plural(sizes.workers, 'worker')}")


def memory_line(config: AuditConfig, sizes: Sizes) -> CheckLine:
    """The line about memory: the larger of what a worker holds in training and in attribution.

    Training holds the rows and a model. Attribution holds factors and checkpoints.
    """
    model, factors = 4 * sizes.parameters, 4 * sizes.factor_numbers
    training = min(sizes.rows["train"] * sizes.row_bytes, config.training.memory_budget) + 4 * model
    kept = max(
        model, min(budgets(config.compute.memory_per_worker).weights, config.training.checkpoints * model)
    )
    attribution = config.attribution.segments * (factors + model) + 2 * (2 * factors + model) + kept
    needed = WORKER_BYTES + max(training, attribution)
    text = f"{words.size(needed)} of memory per worker"
    if needed > config.compute.memory_per_worker:
        return CheckLine(
            "will need", text, f"warning: set compute.memory_per_worker to {words.size(1.3 * needed)} or more"
        )
    if not config.compute.scheduler and needed * sizes.workers > psutil.virtual_memory().available:
        free = words.size(psutil.virtual_memory().available)
        return CheckLine(
            "will need", text, f"warning: {free} are free in all; lower compute.workers from {sizes.workers}"
        )
    return CheckLine("will need", text, OK)


def disk_line(config: AuditConfig, sizes: Sizes) -> CheckLine:
    """The line about disk: encoded rows, checkpoints with momentum, factors and their sums, dynamics, the export."""
    model, rows = 4 * sizes.parameters, sum(sizes.rows.values())
    per_epoch = 48 * (2 * sizes.rows["train"] + 3 * sizes.rows["validation"])
    needed = (
        rows * sizes.row_bytes
        + 2 * (config.training.checkpoints + 2) * model
        + 2 * config.attribution.segments * (4 * sizes.factor_numbers + model)
        + config.training.known_epochs * per_epoch
        + sizes.rows["train"] * (8 * config.training.checkpoints + 200)
        + sizes.source_bytes
    )
    place = next(path for path in (RUNS.resolve(), *RUNS.resolve().parents) if path.exists())
    free, text = shutil.disk_usage(place).free, f"{words.size(needed)} of disk"
    if needed > free:
        return CheckLine(
            "", text, f"{TOO_MUCH}only {words.size(free)} are free in {place}; free some, or use --output"
        )
    return CheckLine("", text, OK)
