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
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from flows import server_process
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
    server = temporary_server(PREFECT_HOME.value())
    server.wait_until_healthy()
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield


def begin_server() -> None:
    """Let the temporary server start, if one will be needed, while this process does something else."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if not PREFECT_API_URL.value():
        temporary_server(PREFECT_HOME.value())


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


class TemporaryServer:
    """Starts when it is made, and is stopped when this process ends, after Prefect's own threads have sent their
    last events.

    Servers that share a home start one after the other: the first one creates the database.
    """

    def __init__(self, home: Path):
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._lock, log = (home / "starting.lock").open("w"), (home / LOG).open("ab")
        except OSError as error:
            raise WinnowError(
                f"Prefect's folder {home} can't be written to ({error.strerror})",
                "Set PREFECT_HOME to a folder that can, or PREFECT_API_URL to a server of your own.",
            ) from None
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        self._log = home / LOG
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", server_process.__file__, str(port)],  # -P: without the file's folder
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PREFECT_HOME": str(home)},
            )
        atexit.register(stop, self._process)

    def wait_until_healthy(self) -> None:
        """Raises WinnowError when the server does not come up."""
        end = time.monotonic() + START_SECONDS
        try:
            while time.monotonic() < end and self._process.poll() is None:
                if answers(self.url):
                    return
                time.sleep(0.05)
        finally:
            self._lock.close()  # the database is there
        stop(self._process)
        raise WinnowError(
            "Prefect's temporary server did not start",
            f"{self._log} says why. `prefect server start` and PREFECT_API_URL use a server of your own instead.",
        )


@cache
def temporary_server(home: Path) -> TemporaryServer:
    """This process's server with this home, the same one at every call."""
    return TemporaryServer(home)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
