"""Whether Prefect runs an audit, or this process by itself: Prefect is an extra, `winnow[flows]`."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from packaging.requirements import Requirement

from pipeline.config import AuditConfig, Orchestration, load_config
from pipeline.errors import InputError
from pipeline.results.result import AuditResult
from pipeline.runs.watcher import Watcher

EXTRA = "flows"
INSTALL = "Install it: pip install '.[flows]' in a clone of the project, or pip install 'WHEEL[flows]' of its wheel."


def obstacle() -> str | None:
    """What keeps flows from running here, in words; None where all of `winnow[flows]` is installed.

    Prefect may be there for other work, in a version that flows don't run with.
    """
    for requirement in _extra_requirements():
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            return f"{requirement.name} is not installed"
        if not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            return f"{requirement.name} {version} is installed, and winnow[{EXTRA}] needs {wanted}"
    return None


def _extra_requirements() -> list[Requirement]:
    """What the extra names, as the installed package says; of a checkout that is not installed, Prefect alone."""
    try:
        stated = [Requirement(text) for text in metadata.requires("winnow") or []]
    except metadata.PackageNotFoundError:
        stated = []
    return [each for each in stated if _of_the_extra(each)] or [Requirement("prefect")]


def _of_the_extra(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": EXTRA}) and not marker.evaluate({"extra": ""})


def require_prefect(what: str) -> None:
    """Raises InputError, which says what to install, where flows can't run."""
    problem = obstacle()
    if problem is not None:
        raise InputError(f"{what} needs Prefect ({problem})", INSTALL)


def begin() -> None:
    """Let Prefect's temporary server start, if one will be needed, while this process does something else."""
    if obstacle() is None:
        from flows.server import begin_server

        begin_server()


def run_audit(
    config_path: str,
    changes: dict[str, Any] | None,
    output: str | None,
    watcher: Watcher,
    again: bool = False,
) -> AuditResult:
    """Run an audit with somebody watching: as a Prefect flow, or directly where Prefect is missing.

    Raises what the stages raise.
    """
    problem = obstacle()
    if problem is None:
        from flows.audit import run_audit as run_flow

        return run_flow(config_path, changes, output, watcher, again)
    return _run_directly(config_path, changes, output, watcher, again, problem)


def _run_directly(
    config_path: str,
    changes: dict[str, Any] | None,
    output: str | None,
    watcher: Watcher,
    again: bool,
    problem: str,
) -> AuditResult:
    """Run `pipeline.audit`. Where Prefect may be expected, stderr says that it is left out, and why."""
    config = load_config(config_path, changes)
    if _expects_prefect(config):
        print(
            f"note: the audit runs without Prefect ({problem}): no retries, no time limit, nothing on its pages",
            file=sys.stderr,
        )
    watcher.begins("start")
    from pipeline.stages.audit import audit

    return audit(config, output, watcher.progress, watcher, again)


def _expects_prefect(config: AuditConfig) -> bool:
    """Retries and time limits are set, a server is named, or Prefect is installed, if in another version."""
    asked = config.orchestration != Orchestration() or bool(os.environ.get("PREFECT_API_URL"))
    return asked or find_spec("prefect") is not None
