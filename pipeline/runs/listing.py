"""Runs on disk: listing them, comparing two of them, and making one's report or export anew."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.runs.directory import RUNS, RunDirectory, read_json

DECISIONS = "review/decisions.csv"


@dataclass(frozen=True)
class RunLine:
    """One run in a list. `verdict`, `rows` and `removed` are None while the run is unfinished."""

    path: str
    when: str  # local time of its last finished stage
    verdict: str | None
    rows: int | None
    removed: int | None
    last_stage: str | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_runs(directory: str | Path = RUNS) -> list[RunLine]:
    """All runs in `directory/<name>/<run-id>` or, as `--output` may have it, `directory/<run-id>`; the newest
    last.

    Raises InputError when there is no such directory, unless it is the usual one, which the first run makes.
    """
    if Path(directory) != Path(RUNS) and not Path(directory).is_dir():
        raise InputError(f"{directory}: no such directory", "Give the directory that holds the runs.")
    found = [path for depth in ("*", "*/*") for path in Path(directory).glob(f"{depth}/record.json")]
    records = sorted(found, key=lambda path: path.stat().st_mtime)
    return [run_line(RunDirectory(record.parent)) for record in records]


def run_line(run: RunDirectory) -> RunLine:
    when = datetime.fromtimestamp((run / "record.json").stat().st_mtime).isoformat(" ", "minutes")
    stages = run.record["stages"]
    last = next(reversed(stages), None)
    if "report" not in stages:
        return RunLine(str(run.path), when, None, None, None, last)
    summary = read_json(run / "report/summary.json")
    removed = summary["decisions"]["remove"]
    return RunLine(str(run.path), when, summary["verdict"], summary["rows_audited"], removed, last)


def compare_runs(one: str | Path, other: str | Path) -> dict[str, Any]:
    """What two finished runs found, side by side.

    Returns `{"runs": [path, path], "values": {name: [value, value]}, "flags": {"both", "first_only",
    "second_only"}}`; flags are rows with a decision other than keep, matched by row_key. Shares and metrics
    are in 0..1.

    Raises InputError when one of them is not a finished run, and when they have different tasks.
    """
    from pipeline.runs.result import AuditResult

    results = [AuditResult(path) for path in (one, other)]
    tasks = [result.summary["task"] for result in results]
    if tasks[0] != tasks[1]:
        raise InputError(
            f"{one} is a {tasks[0]} and {other} a {tasks[1]}: nothing to compare",
            "Compare runs of one dataset.",
        )
    values = [compared_values(result.summary) for result in results]
    first, second = (result.flagged["row_key"] for result in results)
    both = pc.sum(pc.is_in(first, second)).as_py() or 0
    return {
        "runs": [str(one), str(other)],
        "values": {name: [each.get(name) for each in values] for name in values[0] | values[1]},
        "flags": {"both": both, "first_only": len(first) - both, "second_only": len(second) - both},
    }


def compared_values(summary: dict[str, Any]) -> dict[str, Any]:
    noise, metric = summary["estimated_noise"], summary["metric"]
    found = {
        "verdict": summary["verdict"],
        "rows audited": summary["rows_audited"],
        **{f"to {decision}": summary["decisions"][decision] for decision in ("remove", "relabel", "review")},
        "estimated noise": noise["value"] if noise else None,
    }
    for arm, label in (("as_given", "as given"), ("cleaned", "cleaned")):
        if arm in summary["arms"]:
            found[f"holdout {metric} {label}"] = summary["arms"][arm]["metric"]
    if "cleaned - as_given" in summary["differences"]:
        found[f"change of {metric}"] = summary["differences"]["cleaned - as_given"]["metric"]["mean"]
    return found


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

    decisions: a file of decisions by people (docs/decisions.md), added to those that the run has; the stages from
    detection on are then run anew, so that they are verified. proposed: export what detection proposed where
    verification left it for review; a verdict that the gate refuses is still refused.

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
    from pipeline.detection.people import check_lines

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


def existing_run(path: str | Path, needed: str) -> RunDirectory:
    run = RunDirectory(Path(path))
    if not (run / "record.json").exists():
        raise InputError(f"{path}: not a run directory", "`winnow runs` lists the runs that there are.")
    if needed not in run.record["stages"]:
        raise InputError(
            f"{path}: the audit has not come to the end of {needed}", "Run `winnow audit` to its end."
        )
    return run


def redo(run: RunDirectory, name: str, **options: Any) -> None:
    """Run a stage again with the run's own config, what the stages before it have left, and options of its own."""
    from pipeline.stages.audit import STAGES, run_stage
    from pipeline.stages.context import AuditContext
    from pipeline.workers.cluster import Workers

    config = load_config(run / "config.yaml")
    stage = next(stage for stage in STAGES if stage.name == name)
    # The marker, not the record: an earlier attempt may have been interrupted.
    fingerprint = read_json(run / "stages" / f"{name}.json")["fingerprint"]
    run.begin_stage(name, fingerprint, stage.outputs)
    with Workers(config.compute) as workers:
        run_stage(stage, AuditContext(config, run, workers), fingerprint, **options)
