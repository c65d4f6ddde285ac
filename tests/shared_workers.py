"""Worker processes that the audits of a test session share, one audit after the other.

A new worker takes seconds to import torch and scikit-learn. Before each audit, a shared worker becomes as a new one: it
gets the working directory and the environment of this process, and it keeps nothing in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Client, SpecCluster, Worker

from pipeline.workers.known_methods import known_methods
from pipeline.workers.local_cluster import start_cluster

MOST_IDLE = 2


class Idle(NamedTuple):
    """A cluster without an audit. kind: what it was started with; end: ends its processes."""

    kind: tuple[Any, ...]
    cluster: SpecCluster
    end: Callable[[], None]


class SharedWorkers:
    """`start` stands for `start_cluster`; the `close` of its clusters keeps them for the next audit.

    Args:
        folder: for files of the workers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: list[Idle] = []

    def start(
        self,
        count: int,
        memory_limit: int,
        environment: dict[str, str],
        folder: str,
        lock: int | None = None,
    ) -> SpecCluster:
        """As `start_cluster`; shared workers outlive an audit and so don't inherit its `lock`."""
        if known_methods() is not None:  # a shared worker would know them for ever
            return start_cluster(count, memory_limit, environment, folder, lock)
        # Schedulers in this process add their folders to the path.
        path = [place for place in sys.path if "dask-scratch-space" not in place]
        kind = count, memory_limit, environment, path
        for idle in [each for each in self._idle if each.kind == kind]:
            self._idle.remove(idle)
            if _become_new(idle):
                return self._lent(idle)
            idle.end()
        cluster = start_cluster(count, memory_limit, environment, str(self._folder))
        return self._lent(Idle(kind, cluster, cluster.close))

    def _lent(self, idle: Idle) -> SpecCluster:
        idle.cluster.close = partial(self._take_back, idle)
        return idle.cluster

    def _take_back(self, idle: Idle) -> None:
        self._idle.append(idle)
        while len(self._idle) > MOST_IDLE:
            self._idle.pop(0).end()

    def end(self) -> None:
        while self._idle:
            self._idle.pop().end()


def _become_new(idle: Idle) -> bool:
    """Make the workers as new ones; False if one of them is missing or still has a task of the audit before."""
    count, _, environment, _ = idle.kind
    with Client(idle.cluster, set_as_default=False) as client:
        free = client.run(_worker_becomes_new, str(Path.cwd()), environment | dict(os.environ))
    return len(free) == count and all(free.values())


def _worker_becomes_new(folder: str, environment: dict[str, str], dask_worker: Worker) -> bool:
    from pipeline.workers.kept import drop_kept

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    drop_kept()
    return not dask_worker.active_threads
