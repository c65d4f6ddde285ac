"""Chooses the run directory of an audit and opens it: lock, config, record and workers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline import __version__
from pipeline.artifacts import Ledger, say
from pipeline.config import AuditConfig
from pipeline.config.yaml_text import YAMLError, read_yaml
from pipeline.errors import InputError
from pipeline.history.verdicts import read_snapshot
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RUNS, RunDirectory, write_text
from pipeline.stages.remembering import earlier_verdicts, recall
from pipeline.stages.repeats import repeat
from pipeline.stages.stages import fingerprints
from pipeline.workers.cluster import Workers
from pipeline.workers.precision import require_precision

LIBRARIES = ("torch", "numpy", "pyarrow", "dask", "distributed", "scikit-learn", "safetensors", "prefect")
"""The record keeps the versions of these libraries; Prefect may be absent."""


def choose_directory(config: AuditConfig, output: str | Path | None, again: bool = False) -> RunDirectory:
    """Choose the run directory of an audit.

    Args:
        config: of the audit.
        output: the directory that was asked for. None takes the newest unfinished run of the same config, or else the
            newest finished one if nothing has changed since, or else a new directory.
        again: don't take a finished run.

    Raises:
        InputError: `output` holds an audit with another name or of other data, or something that is not a run; a file
            that the config names does not exist; the history is damaged.
    """
    if output is not None:
        run = RunDirectory(Path(output))
        _check_same_audit(run, config)
        return run
    home, text = RUNS / config.name, config.to_yaml().encode()
    same = [
        RunDirectory(path.parent)
        for path in sorted(home.glob("*/config.yaml"), reverse=True)
        if path.read_bytes() == text
    ]
    unfinished = next((run for run in same if not _is_finished(run)), None)
    if unfinished is not None:
        return unfinished
    if same and not again and _is_unchanged(same[0], config):
        return same[0]
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    path, count = home / stamp, 1
    while path.exists():
        count += 1
        path = home / f"{stamp}-{count}"
    return RunDirectory(path)


def _is_finished(run: RunDirectory) -> bool:
    """Whether the report is done. A run with a damaged record counts as unfinished, so that an audit resumes it."""
    try:
        return "report" in run.record["stages"]
    except InputError:
        return False


def _is_unchanged(run: RunDirectory, config: AuditConfig) -> bool:
    """Whether an audit would do again what this finished run did: the same data, settings, verdicts and code."""
    if earlier_verdicts(config, run) != read_snapshot(run.path):
        return False
    stages = run.record["stages"]
    done = {name: entry.get("fingerprint") for name, entry in stages.items()}
    return done == fingerprints(config, run.path)


def _check_same_audit(run: RunDirectory, config: AuditConfig) -> None:
    """Check that an audit of this config may resume a run: name and data must be the same, other settings may differ.

    Raises:
        InputError: name or data differ, or the directory holds something that is not a run.
    """
    path = run / "config.yaml"
    if not path.exists() and not Ledger(run.path).was_there(path.name):
        if run.path.is_dir() and any(p.name != ".lock" for p in run.path.iterdir()):
            raise InputError(
                f"{run.path}: not empty, and not a run directory",
                "Choose an empty or new directory for --output.",
            )
        if run.path.exists() and not run.path.is_dir():
            raise InputError(f"{run.path}: a file, not a directory", "Choose another --output.")
        return
    try:
        before = read_yaml(path.read_text(encoding="utf-8"))
        run.check(path.name)
    except (InputError, OSError, ValueError, YAMLError):
        before = None
    if not isinstance(before, dict):
        say("%s: is damaged or missing; it is written anew from the config that was given", path)
        return
    for key in ("name", "data"):
        if before.get(key) != config.as_dict()[key]:
            raise InputError(
                f"{run.path}: holds an audit of another config (its `{key}` differs)",
                "Choose another --output, or leave it out to begin a new run.",
            )


def _describe_machine(config: AuditConfig) -> dict[str, Any]:
    """The name, versions, seeds and machine, which the record keeps so that the result can be reproduced."""
    device = config.compute.device
    return {
        "name": config.name,
        "versions": {"winnow": __version__, "python": platform.python_version()} | _library_versions(),
        "seeds": {
            "split": config.data.split.seed if config.data.split else None,
            "training": config.training.seed,
            "attribution": config.attribution.seed,
            "detection": config.detection.seed,
            "verification": config.verification.seed,
        },
        "device": ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device,
        "threads": 1,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _library_versions() -> dict[str, str]:
    """The version of each of LIBRARIES that is installed."""
    found = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextmanager
def open_run(
    config: AuditConfig,
    output: str | Path | None = None,
    progress: Progress = silent,
    again: bool = False,
) -> Iterator[AuditContext]:
    """Lock a run directory for an audit, write its config and record, and provide workers that start on demand.

    Args:
        config: of the audit.
        output: as in `choose_directory`.
        progress: called while a stage works.
        again: as in `choose_directory`.

    Raises:
        InputError: the machine lacks the configured precision or device, the scheduler can't be reached, or the history
            is damaged; also as in `choose_directory` and `RunDirectory.lock`.
    """
    require_precision(config)
    run = choose_directory(config, output, again)
    with run.lock() as lock, Workers(config.compute, lock) as workers:
        write_text(run / "config.yaml", config.to_yaml())
        run.mend_record()
        run.update_record(**_describe_machine(config))
        recall(config, run)
        if config.compute.scheduler is not None:
            _ = workers.client  # connects now, so that an unreachable scheduler is an error before any work
        yield AuditContext(config, run, workers, progress, repeat)
