"""The audit: all stages, one after the other, in an open run directory."""

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
) -> AuditResult:
    """Audit a dataset: all stages, in this process and on Dask workers, without an orchestrator.

    config: an AuditConfig or the path of a YAML file. output: the run directory; by default
    `runs/<name>/<date>`, or the unfinished run of the same config if there is one. progress: called while a stage
    works. watcher: told when each stage begins and ends.

    Raises InputError for what is wrong with the config or the data, WinnowError for what fails on the way;
    calling it again goes on from there.
    """
    if not isinstance(config, AuditConfig):
        config = load_config(config)
    with open_run(config, output, progress) as context:
        run_stages(context, watcher or Nobody())
        return AuditResult(context.run)
