"""The context that every stage gets: config, run directory, workers, and a callback for progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.config import AuditConfig
from pipeline.errors import WinnowError
from pipeline.runs.directory import RunDirectory

Progress = Callable[[str, int, int, str], None]
"""Called with (what, done, total, unit); another `what` means that another piece of work has begun."""


def silent(what: str, done: int, total: int, unit: str) -> None:
    """A progress callback that does nothing."""


class Workers(Protocol):
    """The interface of `pipeline.workers.cluster.Workers`, which documents the methods."""

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
    """Trains and scores with another seed, unless that is done already; `number` counts trainings, from 2 on."""

    def __call__(self, context: AuditContext, number: int) -> AuditContext: ...


def _no_repeat(context: AuditContext, number: int) -> AuditContext:
    """The `repeat` of a context that was not opened for an audit.

    Raises:
        WinnowError: always.
    """
    raise WinnowError(f"{context.run.path}: training {number} was asked for outside of an audit")


@dataclass
class AuditContext:
    """What a stage works with.

    Attributes:
        config: the config of the run.
        run: the run directory.
        workers: run tasks.
        progress: called while a stage works.
        repeat: makes a further training with another seed.
    """

    config: AuditConfig
    run: RunDirectory
    workers: Workers
    progress: Progress = field(default=silent)
    repeat: Repeat = field(default=_no_repeat)
