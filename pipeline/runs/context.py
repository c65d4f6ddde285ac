"""What every stage gets: the config, the run directory, the workers, and someone to tell how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.config import AuditConfig
from pipeline.errors import WinnowError
from pipeline.runs.directory import RunDirectory

Progress = Callable[[str, int, int, str], None]
"""Called with (what, done, total, unit); a new `what` begins a new piece of work."""


def silent(what: str, done: int, total: int, unit: str) -> None:
    """Progress for those who don't want any."""


class Workers(Protocol):
    """Whoever runs tasks: `pipeline.workers.cluster.Workers`, which says what the methods do."""

    @property
    def client(self) -> Any: ...

    def count(self) -> int: ...

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        on_done: Callable[[int, Any], None] = ...,
    ) -> list[Any]: ...

    def peak_memory(self) -> int: ...

    def on_progress(self, handler: Callable[[dict[str, Any]], None]) -> None: ...

    def no_progress(self) -> None: ...

    def close(self) -> None: ...


class Repeat(Protocol):
    """Trains and scores with another seed, where that is not done yet; number: from 2 on."""

    def __call__(self, context: AuditContext, number: int) -> AuditContext: ...


def no_repeat(context: AuditContext, number: int) -> AuditContext:
    """Of a context that was not opened for an audit."""
    raise WinnowError(f"{context.run.path}: training {number} was asked for outside of an audit")


@dataclass
class AuditContext:
    config: AuditConfig
    run: RunDirectory
    workers: Workers
    progress: Progress = field(default=silent)
    repeat: Repeat = field(default=no_repeat)
