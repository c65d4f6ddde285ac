"""Workers that are this process: for audits that are themselves tasks of a worker, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.workers.cluster import Workers


class Inline(Workers):
    """Runs tasks in this process, one after the other."""

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        on_done: Callable[[int, Any], None] = lambda place, result: None,
    ) -> list[Any]:
        del names
        results = []
        for place, task in enumerate(tasks):
            results.append(function(*task))
            on_done(place, results[-1])
        return results

    def on_progress(self, handler: Callable[[dict[str, Any]], None]) -> None:
        """Nobody is told."""

    def no_progress(self) -> None:
        """Nobody was told."""
