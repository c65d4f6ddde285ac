"""Repeats the report or the export of a run, with or without decisions by people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import load_config
from pipeline.runs.directory import RunDirectory, existing_run

DECISIONS = "review/decisions.csv"


def report_again(path: str | Path) -> Path:
    """Write the report of a run again.

    Returns:
        The path of the page.

    Raises:
        InputError: the run has not finished the stage `verify`.
    """
    run = existing_run(path, "verify")
    with run.lock():
        _redo(run, "report")
    return run / "report/index.html"


def export_again(
    path: str | Path, decisions: str | Path | None = None, proposed: bool = False
) -> dict[str, Any]:
    """Write `cleaned/`, `quarantine/` and the report of a run again.

    Args:
        path: the run directory.
        decisions: a file of decisions by people (docs/reference/decisions-file.md). They are added to the decisions of
            the run, and the stages from detection on run again, so that the new decisions are verified.
        proposed: export what detection proposed also where verification left rows for review. The gate may still
            refuse the export.

    Returns:
        The facts of the export.

    Raises:
        InputError: the run has not finished the stage `verify`, a line of `decisions` is wrong, or the source files
            have changed.
    """
    from pipeline.stages.audit import audit

    run = existing_run(path, "verify")
    if decisions is not None:
        audit(load_config(run / "config.yaml", take_decisions(path, decisions)), run.path)
    if decisions is None or proposed:
        with run.lock():
            _redo(run, "export", **({"proposed": True} if proposed else {}))
            _redo(run, "report")
    return run.facts("export")


def take_decisions(path: str | Path, decisions: str | Path) -> dict[str, Any]:
    """Merge decisions by people into `review/decisions.csv` of a run; a new decision replaces an earlier one.

    Args:
        path: the run directory.
        decisions: the file of decisions.

    Returns:
        Changes of the run's config. An audit in the same directory with these changes uses the decisions and exports
        again.

    Raises:
        InputError: as in `export_again`.
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


def _redo(run: RunDirectory, name: str, **options: Any) -> None:
    """Run one stage again, with the run's config, the outputs of earlier stages, and options for the stage."""
    from pipeline.runs.context import AuditContext
    from pipeline.stages.stages import STAGES, run_stage
    from pipeline.workers.cluster import Workers

    config = load_config(run / "config.yaml")
    stage = next(stage for stage in STAGES if stage.name == name)
    # The fingerprint comes from the manifest, because the record lacks it if an earlier attempt was interrupted.
    fingerprint = run.fingerprint(name)
    run.begin_stage(name, fingerprint, stage.outputs, stage.changes)
    with Workers(config.compute) as workers:
        run_stage(stage, AuditContext(config, run, workers), fingerprint, **options)
