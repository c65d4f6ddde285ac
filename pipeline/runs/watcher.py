"""Someone who follows an audit from stage to stage, such as a terminal."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.runs.directory import RunDirectory


class Watcher(Protocol):
    """Someone who wants to know how far an audit is."""

    def opened(self, run: RunDirectory) -> None: ...

    def begins(self, stage: str) -> None: ...

    def progress(self, what: str, done: int, total: int, unit: str) -> None: ...

    def fails(self, stage: str, error: Exception) -> None:
        """The stage will be tried again."""

    def ends(self, stage: str, facts: dict[str, Any], seconds: float, before: bool) -> None:
        """`before`: it was complete already, from an earlier run of the same command."""


class Nobody:
    """A watcher for runs that nobody looks at."""

    def opened(self, run: RunDirectory) -> None: ...

    def begins(self, stage: str) -> None: ...

    def progress(self, what: str, done: int, total: int, unit: str) -> None: ...

    def fails(self, stage: str, error: Exception) -> None: ...

    def ends(self, stage: str, facts: dict[str, Any], seconds: float, before: bool) -> None: ...
