"""Which run directory an audit works in, and its opening: lock, config and record on disk, workers at hand."""

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
from pipeline.runs.context import AuditContext, Progress, silent
from pipeline.runs.directory import RUNS, RunDirectory, write_text
from pipeline.stages.repeats import repeat
from pipeline.workers.cluster import Workers
from pipeline.workers.precision import require_precision

LIBRARIES = ("torch", "numpy", "pyarrow", "dask", "distributed", "scikit-learn", "safetensors", "prefect")
"""Those whose versions the record keeps; Prefect may be absent."""


def choose_directory(config: AuditConfig, output: str | Path | None) -> RunDirectory:
    """The directory asked for, or the newest unfinished run of this very config, or a new one.

    Raises InputError when the directory asked for belongs to an audit of other data or another name.
    """
    if output is not None:
        run = RunDirectory(Path(output))
        check_same_audit(run, config)
        return run
    home = RUNS / config.name
    for path in sorted(home.glob("*/config.yaml"), reverse=True):
        run = RunDirectory(path.parent)
        if path.read_bytes() == config.to_yaml().encode() and not is_finished(run):
            return run
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    path, count = home / stamp, 1
    while path.exists():
        count += 1
        path = home / f"{stamp}-{count}"
    return RunDirectory(path)


def is_finished(run: RunDirectory) -> bool:
    """A run with a damaged record is not: it is taken up and goes on."""
    try:
        return "report" in run.record["stages"]
    except InputError:
        return False


def check_same_audit(run: RunDirectory, config: AuditConfig) -> None:
    """An existing run may be taken up with other settings, but not with another name or other data."""
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


def describe_machine(config: AuditConfig) -> dict[str, Any]:
    """What the record keeps so that the same result can be had again."""
    device = config.compute.device
    return {
        "name": config.name,
        "versions": {"winnow": __version__, "python": platform.python_version()} | library_versions(),
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


def library_versions() -> dict[str, str]:
    """The version of each of LIBRARIES that is installed."""
    found = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextmanager
def open_run(
    config: AuditConfig, output: str | Path | None = None, progress: Progress = silent
) -> Iterator[AuditContext]:
    """Hold a run directory for this audit, with its config and record written and workers that start on demand."""
    require_precision(config)
    run = choose_directory(config, output)
    with run.lock(), Workers(config.compute) as workers:
        write_text(run / "config.yaml", config.to_yaml())
        run.mend_record()
        run.update_record(**describe_machine(config))
        if config.compute.scheduler is not None:
            _ = workers.client  # whether it can be reached is said before any work
        yield AuditContext(config, run, workers, progress, repeat)
