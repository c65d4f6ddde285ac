"""The temporary Prefect server: it lives as long as the process that started it, and hears no Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from flows import server
from flows.server import (
    TemporaryServer,
    answers,
    begin_server,
    configured_server,
    free_port,
    prefect_server,
)
from pipeline.errors import InputError, WinnowError

STARTER = """
import sys, time
from pathlib import Path
from flows.server import TemporaryServer
server = TemporaryServer(Path(sys.argv[1]))
server.wait_until_healthy()
print(server.url, flush=True)
time.sleep(600)
"""


def test_server_answers_and_ends_with_a_killed_starter(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert starter.stdout is not None
    try:
        url = starter.stdout.readline().strip()
        assert answers(url)
        os.killpg(starter.pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while answers(url):
            assert time.monotonic() < end, "the server outlived its starter"
            time.sleep(0.1)
    finally:
        starter.kill()
        starter.wait()
        starter.stdout.close()


def test_server_is_in_a_session_of_its_own(server_url: str) -> None:
    port = server_url.split(":")[2].split("/")[0]
    command = f"server_process.py\0{port}\0".encode()
    pids = [
        path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if reads(path).endswith(command)
    ]
    assert len(pids) == 1
    assert os.getsid(int(pids[0])) != os.getsid(0)


def reads(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WinnowError, match="file") as caught:
        TemporaryServer(tmp_path / "file" / "home")
    assert "PREFECT_HOME" in caught.value.hint


def test_server_that_fails_points_to_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WinnowError, match="did not start") as caught:
        TemporaryServer(tmp_path).wait_until_healthy()
    assert str(tmp_path / "temporary-server.log") in caught.value.hint


def test_configured_server_that_does_not_answer_is_named() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(InputError, match=url) as caught:
        configured_server()
    assert "PREFECT_API_URL" in caught.value.hint


def test_configured_server_is_used_as_it_is(server_url: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server_url}), prefect_server():
        assert PREFECT_API_URL.value() == server_url


class Noted:
    """Stands for a server; what is done with it is written down."""

    made: ClassVar[list[Noted]] = []

    def __init__(self, _home: Path):
        self.url = f"http://127.0.0.1:{free_port()}/api"
        self.waits = 0
        self.made.append(self)

    def wait_until_healthy(self) -> None:
        self.waits += 1


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Noted]]:
    """No server is configured, and none is really started; gives those that would have been."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    monkeypatch.setattr(server, "TemporaryServer", Noted)
    monkeypatch.setattr(Noted, "made", [])
    server.temporary_server.cache_clear()
    with temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_URL}):
        yield Noted.made
    server.temporary_server.cache_clear()


def test_server_that_was_begun_is_the_one_that_is_waited_for(noted: list[Noted]) -> None:
    from prefect.settings import PREFECT_API_URL

    begin_server()
    assert [each.waits for each in noted] == [0]
    with prefect_server():
        assert PREFECT_API_URL.value() == noted[0].url
    assert [each.waits for each in noted] == [1]


def test_none_is_begun_where_one_is_configured(noted: list[Noted], server_url: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server_url}):
        begin_server()
    assert noted == []
