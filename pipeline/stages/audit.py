"""The audit, which runs all stages in order."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import AuditConfig, load_config
from pipeline.results.result import AuditResult
from pipeline.runs.context import Progress, silent
from pipeline.runs.watcher import Nobody, Watcher
from pipeline.stages.opening import open_run
from pipeline.stages.stages import run_stages


def audit(
    config: AuditConfig | str | Path,
    output: str | Path | None = None,
    progress: Progress = silent,
    watcher: Watcher | None = None,
    again: bool = False,
) -> AuditResult:
    """Audit a dataset: run all stages, in this process and on Dask workers, without an orchestrator.

    After an error or an interruption, the same call resumes the run.

    Args:
        config: an AuditConfig, or the path of a YAML file.
        output: the run directory. None takes the newest unfinished run of the same config, or else the newest finished
            one if nothing has changed since, or else a new directory `runs/<name>/<date>`.
        progress: called while a stage works.
        watcher: told when each stage begins and ends.
        again: begin a new run also if nothing has changed since the last one.

    Raises:
        InputError: the config or the data is wrong.
        WinnowError: a stage failed.
    """
    if not isinstance(config, AuditConfig):
        config = load_config(config)
    with open_run(config, output, progress, again) as context:
        run_stages(context, watcher or Nobody())
        return AuditResult(context.run)
