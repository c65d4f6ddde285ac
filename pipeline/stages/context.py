"""What every stage gets: the config, the run directory, the workers, and someone to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.config import AuditConfig
from pipeline.runs.directory import RunDirectory
from pipeline.workers.cluster import Workers

Progress = Callable[[str, int, int, str], None]
"""Called with (what, done, total, unit); a new `what` begins a new piece of work."""


def silent(what: str, done: int, total: int, unit: str) -> None:
    """Progress for those who don't want any."""


@dataclass
class AuditContext:
    config: AuditConfig
    run: RunDirectory
    workers: Workers
    progress: Progress = field(default=silent)
