"""A run's report or export made anew, with decisions by people or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import load_config
from pipeline.runs.directory import RunDirectory, existing_run

DECISIONS = "review/decisions.csv"


def report_again(path: str | Path) -> Path:
    """Write the report of a run anew; returns the page's path.

    Raises InputError when the run has not come that far.
    """
    run = existing_run(path, "verify")
    with run.lock():
        redo(run, "report")
    return run / "report/index.html"


def export_again(
    path: str | Path, decisions: str | Path | None = None, proposed: bool = False
) -> dict[str, Any]:
    """Write cleaned/ and quarantine/ of a run anew, and the report; returns the facts of the export.

    decisions: a file of decisions by people (docs/reference/decisions-file.md), added to those that the run has; the
    stages from detection on are then run anew, so that they are verified. proposed: export what detection proposed
    where verification left it for review; a verdict that the gate refuses is still refused.

    Raises InputError when the run has not come that far, for a wrong line of `decisions`, and when the source files
    have changed.
    """
    from pipeline.stages.audit import audit

    run = existing_run(path, "verify")
    if decisions is not None:
        audit(load_config(run / "config.yaml", take_decisions(path, decisions)), run.path)
    if decisions is None or proposed:
        with run.lock():
            redo(run, "export", **({"proposed": True} if proposed else {}))
            redo(run, "report")
    return run.facts("export")


def take_decisions(path: str | Path, decisions: str | Path) -> dict[str, Any]:
    """Copy decisions by people into a run, as review/decisions.csv, among those that it has: later ones hold.

    Returns the changes of the run's config by which an audit in the same directory uses them, and exports anew. Raises
    InputError as `export_again`.
    """
    from pipeline.data.decisions_file import merge, read_decisions, write_decisions
    from pipeline.detection.people.decided_rows import check_lines

    run = existing_run(path, "verify")
    config, lines = load_config(run / "config.yaml"), read_decisions(Path(decisions))
    earlier = config.detection.decisions
    merged = merge([] if earlier is None else read_decisions(Path(earlier)), lines)
    check_lines(config, run.path, lines)
    with run.lock():
        write_decisions(run / DECISIONS, merged)
        stages = run.record["stages"]
        run.update_record(stages={name: stages[name] for name in stages if name not in ("export", "report")})
    return {"detection.decisions": str(run / DECISIONS)}


def redo(run: RunDirectory, name: str, **options: Any) -> None:
    """Run a stage again with the run's own config, what the stages before it have left, and options of its own."""
    from pipeline.runs.context import AuditContext
    from pipeline.stages.stages import STAGES, run_stage
    from pipeline.workers.cluster import Workers

    config = load_config(run / "config.yaml")
    stage = next(stage for stage in STAGES if stage.name == name)
    # The marker, not the record: an earlier attempt may have been interrupted.
    fingerprint = run.fingerprint(name)
    run.begin_stage(name, fingerprint, stage.outputs, stage.changes)
    with Workers(config.compute) as workers:
        run_stage(stage, AuditContext(config, run, workers), fingerprint, **options)
