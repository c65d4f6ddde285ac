"""The process of one Dask worker: `pipeline.workers.local_cluster` starts it with `python -P local_worker.py`.

It never imports the script, the notebook or the session that started the audit. The first line on standard input
is a JSON object: `parent` (process id), `root` (the folder of the package `pipeline`), `path` (the parent's
`sys.path`), `scheduler` (address) and `options` (arguments of `distributed.Worker`). A second line, or the end of
the input, asks the process to end.
"""

import asyncio
import json
import os
import select
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from distributed import Worker

LOOK_SECONDS = 0.5
CLOSE_SECONDS = 2.0


class Ending:
    """Ends the process when the parent asks for it, and at once when the parent has ended, even while a task runs.

    Args:
        parent: the process id of the parent.
        folder: of all workers of the parent; it is removed if the parent has ended without doing so.
    """

    def __init__(self, parent: int, folder: str):
        self._parent, self._folder = parent, folder
        self._worker: tuple[asyncio.AbstractEventLoop, Worker] | None = None
        threading.Thread(target=self._watch, name="parent watch", daemon=True).start()

    def will_close(self, worker: "Worker") -> None:
        self._worker = asyncio.get_running_loop(), worker

    def _watch(self) -> None:
        asked = False
        while os.getppid() == self._parent and not asked:
            if select.select([0], [], [], LOOK_SECONDS)[0]:
                asked = bool(os.read(0, 1))
                if not asked:  # the parent's end of the pipe is closed
                    break
        if asked and self._worker is not None:
            loop, worker = self._worker
            closing = worker.close(timeout=CLOSE_SECONDS, executor_wait=False, reason="the audit has ended")
            try:
                asyncio.run_coroutine_threadsafe(closing, loop).result(CLOSE_SECONDS)
            except (
                BaseException
            ):  # a task may hold the interpreter, or the scheduler may be gone; the process ends in any case
                self.end(1)
        self.end(0, orphan=not asked)

    def end(self, status: int, orphan: bool = False) -> NoReturn:
        """End the process at once; otherwise a thread that still runs a task would keep it alive."""
        if orphan or os.getppid() != self._parent:
            shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(status)


async def _serve(scheduler: str, options: dict[str, Any], ending: Ending) -> None:
    from distributed import Worker

    async with Worker(scheduler, **options) as worker:
        ending.will_close(worker)
        await worker.finished()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the whole group; the parent decides what ends
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    ending = Ending(order["parent"], order["options"]["local_directory"])
    sys.path.insert(0, order["root"])
    import pipeline  # noqa: F401 -- ours; later, a folder of the same name in `path` would be found first

    sys.path[:] = order["path"]
    asyncio.run(_serve(order["scheduler"], order["options"], ending))
    sys.stdout.flush()
    ending.end(0)


if __name__ == "__main__":
    main()
