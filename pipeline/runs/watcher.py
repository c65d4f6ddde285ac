"""The interface of watchers, which are told when stages begin and end, such as a terminal."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.runs.directory import RunDirectory


class Watcher(Protocol):
    """Is told how far an audit is."""

    def opened(self, run: RunDirectory) -> None: ...

    def begins(self, stage: str) -> None: ...

    def progress(self, what: str, done: int, total: int, unit: str) -> None: ...

    def fails(self, stage: str, error: Exception) -> None:
        """Called when the stage has failed and will be tried again."""

    def ends(self, stage: str, facts: dict[str, Any], seconds: float, before: bool) -> None:
        """Called when the stage has ended; `before`: the stage was complete already, from an earlier command."""


class Nobody:
    """A watcher that does nothing."""

    def opened(self, run: RunDirectory) -> None: ...

    def begins(self, stage: str) -> None: ...

    def progress(self, what: str, done: int, total: int, unit: str) -> None: ...

    def fails(self, stage: str, error: Exception) -> None: ...

    def ends(self, stage: str, facts: dict[str, Any], seconds: float, before: bool) -> None: ...
