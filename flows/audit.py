"""The audit as a Prefect flow: the stages of `pipeline.audit`, each a task with retries and a timeout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_engine import TaskRunTimeoutError

from flows.server import prefect_server
from flows.stage_summaries import sentence
from pipeline.attribution.errors import AttributionError
from pipeline.config import AuditConfig, load_config
from pipeline.errors import InputError, WinnowError
from pipeline.report.suggestion import suggestion
from pipeline.report.summary import headline
from pipeline.results.result import AuditResult
from pipeline.runs.context import AuditContext
from pipeline.runs.watcher import Nobody, Watcher
from pipeline.stages import stages
from pipeline.stages.opening import choose_directory, open_run

RETRY_DELAY_SECONDS = 5
WORST_ROWS = 20
REFUSED = "Refused"
"""The name of a flow run's last state when the verification gate refused the export."""
FINAL = (InputError, AttributionError)
"""Errors that come again however often a stage is tried."""


_watcher: ContextVar[Watcher] = ContextVar("watcher")


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` follow the flows that are called inside; a flow's parameters can't hold it."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def _current_watcher() -> Watcher:
    """A function, since a served flow's globals are pickled by Prefect, and a ContextVar can't be."""
    return _watcher.get(Nobody())


@flow(
    name="winnow-audit",
    flow_run_name="audit {config_path}",
    persist_result=False,
    result_serializer="json",  # Prefect keeps the error of a failed run whatever it is told
)
def audit_flow(
    config_path: str,
    changes: dict[str, Any] | None = None,
    output: str | None = None,
    again: bool = False,
) -> State[str]:
    """Audit a dataset.

    config_path: a YAML file. changes: `{"detection.max_removed": 0.1}`, applied to it. output: the run
    directory, by default `runs/<name>/<date>` or the unfinished run of the same config. again: begin a new
    run also if nothing has changed since the last one. Paths are relative to the working directory.

    The message of the final state is the path of the run directory, which is also the result. The state's
    name is `Unchanged` when data, config, verdicts and code are those of a finished run, so that there was
    nothing to do. When the verification gate kept the cleaned dataset from being written, the state is
    `Refused`, of type FAILED, so that pages and automations for failed runs show it; the run directory is
    complete all the same. Raises what the stages raise.
    """
    config = load_config(config_path, changes)
    watcher, worked = _current_watcher(), []

    def run(stage: stages.Stage, context: AuditContext, fingerprint: str) -> bool:
        ran = _run_task(_stage_task(stage, context, fingerprint, watcher), config)
        worked.append(ran)
        get_run_logger().info("%s: %s", stage.name, sentence(stage.name, context.run.facts(stage.name)))
        return ran

    with open_run(config, output, watcher.progress, again) as context:
        stages.run_stages(context, watcher, run)
        result = AuditResult(context.run)
        if any(worked):
            _publish(result)
    path = str(result.run.path)
    if result.refused:
        return Failed(name=REFUSED, message=path)
    return Completed(name="Completed" if any(worked) else "Unchanged", message=path, data=path)


def run_audit(
    config_path: str,
    changes: dict[str, Any] | None,
    output: str | None,
    watcher: Watcher,
    again: bool = False,
) -> AuditResult:
    """Run the flow with somebody watching, on the user's Prefect server or a temporary one."""
    watcher.begins("start")
    choose_directory(
        load_config(config_path, changes), output, again
    )  # what is wrong with it is said at once
    with prefect_server(), watched_by(watcher):
        state = audit_flow(config_path, changes, output, again, return_state=True)
        refused = state.is_failed() and state.name == REFUSED
        return AuditResult(str(state.message if refused else state.result()))


def _stage_task(
    stage: stages.Stage, context: AuditContext, fingerprint: str, watcher: Watcher
) -> Task[[], bool]:
    """The stage as a task without parameters: Prefect would hash and serialise them."""
    orchestration = context.config.orchestration
    failures: list[Exception] = []

    @task(
        name=stage.name,
        task_run_name=stage.name,
        retries=orchestration.retries,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        retry_condition_fn=lambda *_: not any(isinstance(error, FINAL) for error in failures),
        timeout_seconds=3600 * orchestration.timeout_hours,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def run() -> bool:
        if failures:
            watcher.fails(stage.name, failures[-1])
        try:
            return stages.run_stage(stage, context, fingerprint)
        except Exception as error:
            failures.append(error)
            context.workers.close()  # the next try gets fresh ones
            raise

    return run


def _run_task(stage: Task[[], bool], config: AuditConfig) -> bool:
    try:
        return stage()
    except TaskRunTimeoutError:
        raise WinnowError(
            f"{stage.name}: not done after {config.orchestration.timeout_hours:g} hours",
            "Raise orchestration.timeout_hours and run the same command again: it goes on from here.",
        ) from None


def _publish(result: AuditResult) -> None:
    """The run's summary, its worst rows and a link to the report, as artifacts that Prefect's pages show."""
    summary, prefix = result.summary, re.sub(r"[^a-z0-9]+", "-", result.summary["name"].lower())
    report = result.paths["report"].resolve().as_uri()
    create_markdown_artifact(
        _summary_markdown(summary), key=f"{prefix}-summary", description="What the audit found"
    )
    create_table_artifact(
        _worst_rows(result), key=f"{prefix}-worst-rows", description="The most suspicious rows"
    )
    create_link_artifact(report, "report", key=f"{prefix}-report", description="The report of the run")


def _summary_markdown(summary: dict[str, Any]) -> str:
    first, *rest = headline(summary)
    decisions = "\n".join(f"| {name} | {count:,} |" for name, count in summary["decisions"].items())
    text = "\n".join(f"{line}  " for line in rest)
    return f"**{first}**\n\n{text}\n\n| decision | rows |\n|---|---|\n{decisions}\n"


def _worst_rows(result: AuditResult) -> list[dict[str, Any]]:
    columns = ["row_key", "label", "suggested_label", "suspicion", "decision", "reasons"]
    rows = result.flagged.slice(0, WORST_ROWS).to_pylist()
    said = [
        row | {"reasons": ", ".join(row["reasons"] or []), "suggested_label": suggestion(row)} for row in rows
    ]
    return [{name: row[name] for name in columns} for row in said]
