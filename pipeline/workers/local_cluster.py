"""A Dask cluster on this machine: the scheduler runs in this process, and each worker in a process of its own.

The workers don't import the user's script. Dask's own local cluster starts workers by `multiprocessing`, which imports
the script again in each of them and so requires a `__main__` guard there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.utils import parse_timedelta
from distributed import Scheduler, SpecCluster
from distributed.deploy.spec import ProcessInterface

import pipeline
from pipeline.errors import WinnowError
from pipeline.workers import local_worker

HOST = "127.0.0.1"
START_SECONDS = 120.0
STARTS = 3
END_SECONDS = local_worker.CLOSE_SECONDS + 1


class LocalWorker(ProcessInterface):
    """A worker process. It is restarted when it dies, and killed when it exceeds its memory limit.

    Args:
        scheduler: address of the scheduler.
        name: a number; workers share the GPUs by their numbers.
        options: arguments of `distributed.Worker`, with `memory_limit` in bytes.
        environment: variables of the process.
        lock: a file descriptor that the process inherits.
    """

    def __init__(
        self,
        scheduler: str,
        name: int,
        options: dict[str, Any],
        environment: dict[str, str],
        lock: int | None,
    ):
        super().__init__()
        path = [os.path.abspath(place) for place in sys.path if isinstance(place, str)]  # noqa: PTH100
        order = {
            "parent": os.getpid(),
            "root": str(Path(pipeline.__file__).parents[1]),
            "path": path,
            "scheduler": scheduler,
            "options": {"name": name, **options},
        }
        self._order = json.dumps(order).encode() + b"\n"
        self._environment, self._folder = environment, Path.cwd()
        self._inherited = () if lock is None else (lock,)
        self._most = options["memory_limit"] * dask.config.get("distributed.worker.memory.terminate")
        self._look = parse_timedelta(dask.config.get("distributed.worker.memory.monitor-interval"))
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.starts = 0

    async def start(self) -> None:
        self._begin()
        self._watching = asyncio.create_task(self._watch())
        await super().start()

    def _begin(self) -> None:
        """Start a process; `-P` keeps the folder of `local_worker.py` out of its `sys.path`."""
        self.starts += 1
        self._process = subprocess.Popen(
            [sys.executable, "-P", local_worker.__file__],
            stdin=subprocess.PIPE,
            env=self._environment,
            cwd=self._folder,
            pass_fds=self._inherited,
        )
        self._tell(self._order)

    def _tell(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # The process has died, and `_watch` restarts it; the pipe is closed where it could not.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._look)
            assert self._process is not None
            if self._process.poll() is not None:
                self._release(self._process)
                self._begin()
            elif _resident_bytes(self._process.pid) > self._most:
                self._process.kill()

    async def close(self) -> None:
        """Ask the process to end, and kill it if it does not end within a few seconds."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        process = self._process
        if process is not None:
            self._tell(b"end\n")
            until = time.monotonic() + END_SECONDS
            while process.poll() is None and time.monotonic() < until:
                await asyncio.sleep(0.01)
            process.kill()
            process.wait()
            self._release(process)
            self._process = None
        await super().close()

    @staticmethod
    def _release(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _resident_bytes(process_id: int) -> int:
    """The resident size of a process; 0 for one that is gone."""
    try:
        return psutil.Process(process_id).memory_info().rss
    except psutil.Error:
        return 0


def start_cluster(
    count: int, memory_limit: int, environment: dict[str, str], folder: str, lock: int | None = None
) -> SpecCluster:
    """Start a local cluster; its `close()` ends the workers.

    Args:
        count: how many workers, with one thread each.
        memory_limit: bytes per worker.
        environment: variables for the worker processes; variables of this process override them.
        folder: for files of the workers; the caller removes it, or the workers do if the caller was killed.
        lock: a file descriptor that the workers inherit, so that a lock on it lasts until they have ended.

    Raises:
        WinnowError: the workers don't start.
    """
    inherited = {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.global_config)}
    options = {
        "nthreads": 1,
        "memory_limit": memory_limit,
        "local_directory": folder,
        "host": HOST,
        "dashboard": False,
        "dashboard_address": f"{HOST}:0",
    }
    worker = {"options": options, "environment": environment | dict(os.environ) | inherited, "lock": lock}
    cluster = SpecCluster(
        scheduler={
            "cls": Scheduler,
            "options": {
                "host": HOST,
                "port": 0,
                "dashboard": True,
                "dashboard_address": f"{HOST}:0",
                "local_directory": folder,
            },
        },
        workers={name: {"cls": LocalWorker, "options": worker} for name in range(count)},
        name="winnow",
        silence_logs=logging.WARNING,
    )
    try:
        _wait_for_workers(cluster, count)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _wait_for_workers(cluster: SpecCluster, count: int) -> None:
    """Wait until all workers are connected.

    Raises:
        WinnowError: a worker ended more than STARTS times, or the start took more than START_SECONDS.
    """
    until = time.monotonic() + START_SECONDS
    while len(cluster.scheduler.workers) < count:
        if any(worker.starts > STARTS for worker in cluster.workers.values()):
            raise WinnowError(
                f"a worker process ended {STARTS} times while it started",
                f"Its own error stands above; {sys.executable} must be able to import distributed.",
            )
        if time.monotonic() > until:
            raise WinnowError(
                f"the worker processes took more than {START_SECONDS:.0f} s to start",
                "Lower compute.workers, or try again when the machine is less busy.",
            )
        time.sleep(0.01)
