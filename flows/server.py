"""A Prefect server for the length of one command, where the user has none running.

Prefect would start one by itself. But that one shares the terminal's Ctrl-C, after which the flow waits a
minute for a server that is gone, and it stays behind when the command is killed. This one hears no Ctrl-C and
ends with the process that started it, however that ends.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError, WinnowError

START_SECONDS = 60
LOG = "temporary-server.log"


@contextmanager
def prefect_server() -> Iterator[None]:
    """Prefect's API at hand: the user's own server if one is configured, else a temporary one.

    Raises InputError when the user's server does not answer, WinnowError when the temporary one does not
    come up.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if configured_server() is not None:
        yield
        return
    url = start_server(PREFECT_HOME.value())
    with temporary_settings({PREFECT_API_URL: url}):
        yield


def configured_server() -> str | None:
    """The API of the user's own server, if there is one. Raises InputError when it doesn't answer."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return None
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise InputError(
            f"the Prefect server at {url} doesn't answer ({problem})",
            "Start it (`prefect server start`), or unset PREFECT_API_URL.",
        )
    return str(url)


def start_server(home: Path) -> str:
    """Start the server and return the URL of its API. It is stopped when this process ends, after Prefect's
    own threads have sent their last events.

    Servers that share a home start one after the other: the first one creates the database.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock, log = (home / "starting.lock").open("w"), (home / LOG).open("ab")
    except OSError as error:
        raise WinnowError(
            f"Prefect's folder {home} can't be written to ({error.strerror})",
            "Set PREFECT_HOME to a folder that can, or PREFECT_API_URL to a server of your own.",
        ) from None
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    with lock, log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PREFECT_HOME": str(home)},
        )
        atexit.register(stop, process)
        wait_until_healthy(url, process, home / LOG)
    return url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    stop(process)
    raise WinnowError(
        "Prefect's temporary server did not start",
        f"{log} says why. `prefect server start` and PREFECT_API_URL use a server of your own instead.",
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve(port: int) -> None:
    """Be the server, until standard input ends: the parent holds its other end."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(ephemeral=True), host="127.0.0.1", port=port, log_level="error")
    )

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = server.force_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
