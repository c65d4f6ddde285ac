"""Lists the runs in a folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.runs.directory import RUNS, RunDirectory
from pipeline.text.decisions import Decision


@dataclass(frozen=True)
class RunLine:
    """One run in a list; `verdict`, `rows` and `removed` are None while the run is unfinished or damaged."""

    path: str
    when: str  # local time of its last finished stage
    verdict: str | None
    rows: int | None
    removed: int | None
    last_stage: str | None
    damaged: str | None = None  # what is wrong with a file of the run, in words

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_runs(directory: str | Path = RUNS) -> list[RunLine]:
    """All runs in `directory/<name>/<run-id>` and `directory/<run-id>` (made with `--output`), the newest last.

    Raises:
        InputError: the directory does not exist; only the default directory may be missing, since the first run
            creates it.
    """
    if Path(directory) != Path(RUNS) and not Path(directory).is_dir():
        raise InputError(f"{directory}: no such directory", "Give the directory that holds the runs.")
    found = [path for depth in ("*", "*/*") for path in Path(directory).glob(f"{depth}/record.json")]
    records = sorted(found, key=lambda path: path.stat().st_mtime)
    return [_run_line(RunDirectory(record.parent)) for record in records]


def _run_line(run: RunDirectory) -> RunLine:
    when = datetime.fromtimestamp((run / "record.json").stat().st_mtime).isoformat(" ", "minutes")
    try:
        run.check("record.json")
        stages = run.record["stages"]
        last = next(reversed(stages), None)
        if "report" not in stages:
            return RunLine(str(run.path), when, None, None, None, last)
        run.check("report/summary.json")
        summary = run.read("report/summary.json")
        removed = summary["decisions"][Decision.REMOVE.word]
        return RunLine(str(run.path), when, summary["verdict"], summary["rows_audited"], removed, last)
    except InputError as error:
        return RunLine(str(run.path), when, None, None, None, None, error.message)
