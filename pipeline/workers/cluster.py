"""The Dask workers of an audit: processes on this machine by default, or the user's own cluster."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import Any

import dask
from distributed import Client, SpecCluster, as_completed
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from pipeline import __version__
from pipeline.attribution.errors import AttributionError
from pipeline.config import Compute
from pipeline.errors import InputError, WinnowError
from pipeline.workers.known_methods import known_methods
from pipeline.workers.local_cluster import start_cluster
from pipeline.workers.topics import PROGRESS_TOPIC

IN_FLIGHT_PER_WORKER = 4
LOOK_SECONDS = 2.0
ALONE_SECONDS = 60.0
SETTINGS = {
    # A paused worker that can't free memory would wait forever. The limit at which a worker is ended is enough.
    "distributed.worker.memory.pause": False,
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": "10s",
    # A worker that died is started again, which takes long on a busy machine.
    "distributed.deploy.lost-worker-timeout": "60s",
}
WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OPENBLAS_NUM_THREADS": "1",
    # The errors of a worker come back with its results; its log would mix with ours. Dask reads the variable at its
    # import, so the variable must be set before the worker starts.
    "DASK_LOGGING__DISTRIBUTED": "critical",
}


def peak_resident_bytes() -> int:
    """The largest resident size that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _gpus() -> int:
    """How many GPUs torch can use. Torch is imported here, because commands without workers don't need it."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class Workers:
    """The workers of an audit. They start on first use. `close()` ends a local cluster but not the user's own.

    Args:
        config: how many workers, or the scheduler of the user's own.
        lock: the file descriptor of the lock under which they work. Local workers inherit it, so that the lock lasts
            until they have ended, even when this process is killed.

    Raises:
        InputError: the config asks for a GPU on a machine without one.
    """

    def __init__(self, config: Compute, lock: int | None = None):
        if config.device == "cuda" and not config.scheduler and not _gpus():
            raise InputError("compute.device is cuda, but torch finds no GPU here", "Set it to auto or cpu.")
        self._config, self._lock = config, lock
        self._client: Client | None = None
        self._cluster: SpecCluster | None = None
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def client(self) -> Client:
        """The Dask client; the first use starts the workers or connects to the configured scheduler.

        Raises:
            InputError: the scheduler can't be reached, or its workers lack this version of winnow.
            WinnowError: the local workers don't start.
        """
        if self._client is None:
            dask.config.set(SETTINGS)
            logging.getLogger("distributed").setLevel(logging.ERROR)
            self._client = self._connect() if self._config.scheduler else self._start()
            if (plugin := known_methods()) is not None:
                self._client.register_plugin(plugin)
        return self._client

    def _connect(self) -> Client:
        address = self._config.scheduler
        try:
            client = Client(address, timeout=10, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise InputError(
                f"the Dask scheduler at {address} can't be reached ({type(error).__name__})",
                "Check compute.scheduler (tcp://host:port), or leave it out to use processes on this machine.",
            ) from None
        try:
            self._check_workers(client)
        except InputError:
            client.close()
            raise
        self._drop_kept(client)
        return client

    @staticmethod
    def _check_workers(client: Client) -> None:
        """Check that the workers have this version; workers without the same code would hang at the first task."""
        address = client.scheduler.address
        found = client.run(metadata.version, "winnow", on_error="return")
        if not found:
            raise InputError(
                f"the Dask scheduler at {address} has no workers", f"Start some: dask worker {address}"
            )
        for worker, version in found.items():
            if version != __version__:
                state = "does not have" if isinstance(version, Exception) else f"has version {version} of"
                raise InputError(
                    f"the Dask worker {worker} {state} winnow {__version__}",
                    f"Start its workers in an environment with winnow {__version__}.",
                )

    def _start(self) -> Client:
        count = self.local_count()
        threads = str(max(1, (os.cpu_count() or 1) // count))
        # Libraries read these at their import, so they are set before a worker starts; Dask's default is 1 thread.
        before = {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }
        environment = WORKER_ENVIRONMENT | before
        self._folder = TemporaryDirectory(prefix="winnow-workers-", ignore_cleanup_errors=True)
        try:
            self._cluster = start_cluster(
                count, self._config.memory_per_worker, environment, self._folder.name, self._lock
            )
        except BaseException:
            self._folder.cleanup()
            raise
        return Client(self._cluster, set_as_default=False)

    def local_count(self) -> int:
        """How many workers a local cluster gets: `compute.workers`, or one per GPU, or one per core."""
        if self._config.workers != "auto":
            return self._config.workers
        found = _gpus() if self._config.device != "cpu" else 0
        return found or os.cpu_count() or 1

    def count(self) -> int:
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        on_done: Callable[[int, Any], None] = lambda place, result: None,
    ) -> list[Any]:
        """Call `function(*task)` on the workers for each task; a bounded number of tasks is in flight at a time.

        Args:
            function: importable on the workers.
            tasks: the arguments of each call.
            names: what each task is about, for errors.
            on_done: called with the place of a task and its result, in the order in which tasks finish.

        Returns:
            The results, in the order of the tasks.

        Raises:
            WinnowError: the workers of a task died repeatedly (the message names the task), no worker is left, or the
                scheduler was lost.
            Exception: any other error that a task raised.
        """
        if not tasks:
            return []
        results: list[Any] = [None] * len(tasks)
        places: dict[Any, int] = {}
        waiting = iter(enumerate(tasks))

        def submit(count: int) -> Iterator[Any]:
            for _, (place, task) in zip(range(count), waiting):
                future = self.client.submit(function, *task, pure=False)
                places[future.key] = place
                yield future

        pending = as_completed(submit(IN_FLIGHT_PER_WORKER * self.count()), loop=self.client.loop)
        try:
            for future in self._as_they_come(pending):
                place = places[future.key]
                results[place] = self._result(future, names[place])
                on_done(place, results[place])
                pending.update(submit(1))
        except BaseException:
            self.client.cancel(list(pending.futures), force=True)
            raise
        return results

    def _as_they_come(self, pending: as_completed) -> Iterator[Any]:
        """Yield finished futures.

        Raises:
            WinnowError: there has been no worker for ALONE_SECONDS.
        """
        alone_since: float | None = None
        looked = time.monotonic()
        while not pending.is_empty():
            with pending.thread_condition:  # notified when a future is done
                ready = pending.has_ready() or (pending.thread_condition.wait(0.1) and pending.has_ready())
            if ready:
                yield next(pending)
                continue
            now = time.monotonic()
            if now - looked < LOOK_SECONDS:
                continue
            looked = now
            if self.client.status != "running" or self.client.scheduler_info(n_workers=-1)["workers"]:
                alone_since = None
                continue
            alone_since = alone_since or now
            if now - alone_since > ALONE_SECONDS:
                raise WinnowError(
                    "no Dask worker is left",
                    "Start workers and run the same command again: it resumes from here.",
                )

    @staticmethod
    def _result(future: Any, name: str) -> Any:
        try:
            return future.result()
        except KilledWorker:
            raise WinnowError(
                f"{name}: its worker died three times (most likely it ran out of memory)",
                "Raise compute.memory_per_worker, or lower attribution.batch_size or compute.chunk_rows, and run the "
                "same command again.",
            ) from None
        except AttributionError as error:
            raise WinnowError(f"{name}: {error.message}", error.hint or None) from error
        except FutureCancelledError:
            raise WinnowError(
                f"{name}: the Dask scheduler was lost", "Run the same command again: it resumes from here."
            ) from None

    def peak_memory(self) -> int:
        """The largest resident size that any worker has had, in bytes; 0 if no worker was started."""
        return max(self._client.run(peak_resident_bytes).values(), default=0) if self._client else 0

    def on_progress(self, handler: Callable[[dict[str, Any]], None]) -> None:
        """Call `handler` with each event that a task emits with `pipeline.workers.worker.emit_progress`."""
        self.client.subscribe_topic(PROGRESS_TOPIC, lambda event: handler(event[1]))

    def no_progress(self) -> None:
        self.client.unsubscribe_topic(PROGRESS_TOPIC)

    @staticmethod
    def _drop_kept(client: Client) -> None:
        """Drop what the user's workers keep in memory of this run, or of a run that ended without dropping it."""
        from pipeline.workers.kept import drop_kept

        if client.status == "running":
            client.run(drop_kept, on_error="ignore")

    def close(self) -> None:
        if self._client is not None:
            if self._config.scheduler:
                self._drop_kept(self._client)
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._client = self._cluster = self._folder = None
