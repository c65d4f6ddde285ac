"""A scheduled audit on a real Prefect server: the deployment is served, triggered, and runs to its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from pipeline.errors import InputError

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(arguments: list[str], environment: dict[str, str], output: Path) -> Iterator[Callable[[], bool]]:
    """Run a command in the background, in a session of its own; in the end nothing of it is left. Gives a
    function that tells whether it runs."""
    with output.open("w") as file:
        running = subprocess.Popen(
            arguments,
            env=environment,
            cwd=output.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield lambda: running.poll() is None
    finally:
        running.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            running.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def wait_for(what: str, there: Callable[[], bool], runs: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert runs(), f"{what} did not come: its process has ended"
        assert time.monotonic() < end, f"{what} did not come within {PATIENCE} s"
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def tiny_config(directory: Path) -> Path:
    digits = ROOT / "data_samples/digits"
    config = {
        "name": "nightly",
        "data": {role: str(digits / role) for role in ("train", "validation", "holdout")}
        | {"features": {"image": "image"}, "label": "label", "key": "index"},
        "model": {"name": "mlp", "hidden": [16]},
        "training": {"epochs": 2, "checkpoints": 2},
        "detection": {"halves": False, "panel": False, "backdoors": False},
        "verification": {"seeds": 0},
        "compute": {"workers": 1},
    }
    path = directory / "nightly.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_served_deployment_runs_the_audit_when_triggered(tmp_path: Path) -> None:
    port = str(free_port())
    url = f"http://127.0.0.1:{port}/api"
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    serving = ["flows.cli", "schedule", str(tiny_config(tmp_path)), "--cron", "0 3 * * 1"]
    said = tmp_path / "schedule.log"
    with process([sys.executable, "-m", *server], environment, tmp_path / "server.log") as runs:
        wait_for("the server", lambda: answers(f"{url}/health"), runs)
        with process([sys.executable, "-m", *serving], environment, said) as runs:
            wait_for("the announcement", lambda: "Ctrl-C" in said.read_text(), runs)
            state, message = trigger(url)
    assert "winnow-audit/nightly" in said.read_text()
    assert state == "Completed", message
    run = tmp_path / message
    assert run.parent == tmp_path / "runs/nightly"
    assert (run / "cleaned.json").exists()
    assert (run / "report/index.html").exists()


def trigger(url: str) -> tuple[str, str]:
    """Run the deployment as anyone would, and wait for the end; name and message of the final state."""
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    end = time.monotonic() + PATIENCE
    with temporary_settings({PREFECT_API_URL: url}):
        while True:
            try:
                run = run_deployment("winnow-audit/nightly", timeout=PATIENCE, poll_interval=0.3)
                return run.state.name, run.state.message
            except ObjectNotFound:
                assert time.monotonic() < end, "the deployment was not registered"
                time.sleep(0.3)


class TestPlan:
    @pytest.fixture(autouse=True)
    def server_at_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flows.schedule.configured_server", lambda: "http://127.0.0.1:4200/api")

    def test_next_run_is_the_first_moment_after_now_in_the_given_zone(self, tmp_path: Path) -> None:
        from flows.schedule import plan

        planned = plan(tiny_config(tmp_path), "30 4 * * 1", "Asia/Tokyo")
        assert planned.next_run > datetime.now(planned.next_run.tzinfo)
        assert (planned.next_run - datetime.now(planned.next_run.tzinfo)).days < 7
        assert (planned.next_run.weekday(), planned.next_run.hour, planned.next_run.minute) == (0, 4, 30)
        assert planned.next_run.utcoffset().total_seconds() == 9 * 3600
        assert planned.deployment == "winnow-audit/nightly"

    @pytest.mark.parametrize("cron", ["", "0 3 * *", "61 * * * *", "0 0 31 2 *", "every monday"])
    def test_wrong_cron_expression_is_named(self, tmp_path: Path, cron: str) -> None:
        from flows.schedule import plan

        with pytest.raises(InputError, match="not a cron expression"):
            plan(tiny_config(tmp_path), cron)

    def test_unknown_time_zone_is_named(self, tmp_path: Path) -> None:
        from flows.schedule import plan

        with pytest.raises(InputError, match="Mars/Olympus"):
            plan(tiny_config(tmp_path), "0 3 * * 1", "Mars/Olympus")

    def test_wrong_config_is_named_before_the_server_is_asked(self, tmp_path: Path) -> None:
        from flows.schedule import plan

        with pytest.raises(InputError, match="unknown key"):
            plan(tiny_config(tmp_path), "0 3 * * 1", None, {"training.epoch": 3})


def test_schedule_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.schedule import plan

    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(InputError) as caught:
        plan(tiny_config(tmp_path), "0 3 * * 1")
    assert "prefect server start" in caught.value.hint
