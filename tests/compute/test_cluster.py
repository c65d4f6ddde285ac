from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cluster_tasks import die, die_once, double, nan, process_id, refuse
from digits_run import ROOT
from distributed import Client

from pipeline.config import Compute
from pipeline.errors import InputError, WinnowError
from pipeline.workers.cluster import Workers

pytestmark = pytest.mark.usefixtures("new_workers")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(Compute(workers=2)) as started:
        yield started


def names(count: int) -> list[str]:
    return [f"task {place}" for place in range(count)]


def test_results_come_in_order_and_each_is_reported_once(workers: Workers) -> None:
    seen: list[tuple[int, int]] = []
    found = workers.run(
        double, [(n,) for n in range(50)], names(50), lambda place, result: seen.append((place, result))
    )
    assert found == [2 * n for n in range(50)]
    assert sorted(seen) == [(n, 2 * n) for n in range(50)]


def test_tasks_run_in_separate_processes(workers: Workers) -> None:
    processes = set(workers.run(process_id, [(n,) for n in range(20)], names(20)))
    assert len(processes) == 2
    assert os.getpid() not in processes


@pytest.mark.parametrize("count", [1, os.cpu_count() or 1])
def test_workers_share_the_cores(count: int) -> None:
    """In a fresh process, since this one's environment has a number of threads."""
    code = (
        "from cluster_tasks import torch_threads; from pipeline.workers.cluster import Workers\n"
        "from pipeline.config import Compute\n"
        f"with Workers(Compute(workers={count})) as w: print(w.run(torch_threads, [(0,)], ['t'])[0])"
    )
    free = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=free | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )
    assert int(found.stdout) == (os.cpu_count() or 1) // count


def test_a_killed_worker_costs_nothing_but_time(workers: Workers, tmp_path: Path) -> None:
    tasks = [(tmp_path / f"flag-{n}",) for n in range(3)]
    assert workers.run(die_once, tasks[:1], names(1)) == ["done"]


def test_a_task_that_always_kills_its_worker_is_named(workers: Workers) -> None:
    with pytest.raises(WinnowError, match="task 0: its worker died three times"):
        workers.run(die, [(0,)], names(1))


def test_our_own_errors_come_through_as_they_are(workers: Workers) -> None:
    with pytest.raises(InputError) as error:
        workers.run(refuse, [(0,)], names(1))
    assert error.value.hint == "Drop it."
    with pytest.raises(WinnowError, match="task 0: The input covariance of layer '1' has a NaN"):
        workers.run(nan, [(0,)], names(1))


def test_a_workers_log_does_not_stand_in_the_terminal(workers: Workers) -> None:
    levels = workers.client.run(lambda: logging.getLogger("distributed.worker").getEffectiveLevel())
    assert set(levels.values()) == {logging.CRITICAL}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="device is cuda, but torch finds no GPU"):
        Workers(Compute(device="cuda"))


def test_a_scheduler_that_cannot_be_reached_is_named() -> None:
    with (
        Workers(Compute(scheduler="tcp://127.0.0.1:9")) as unreachable,
        pytest.raises(InputError, match=r"tcp://127\.0\.0\.1:9 can't be reached"),
    ):
        _ = unreachable.client


def assert_kept_only_during_a_run(address: str, file: Path) -> None:
    """Workers of a lasting cluster drop what they keep when a run begins and when it ends."""

    def keep_something() -> int:
        from pipeline.workers import kept

        return kept.keep("thing", file, lambda: 7)

    def kept() -> int:
        from pipeline.workers import kept

        return sum(map(len, kept._objects.values()))

    with Client(address, set_as_default=False) as plain:
        plain.run(keep_something)  # left by a run that was killed
        assert list(plain.run(kept).values()) == [1]
        with Workers(Compute(scheduler=address)) as own:
            assert list(own.client.run(kept).values()) == [0]
            own.client.run(keep_something)
            assert list(plain.run(kept).values()) == [1]
        assert list(plain.run(kept).values()) == [0]


def test_the_users_own_cluster_is_used_and_left_running(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [
            *dask,
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        ],
        stderr=subprocess.DEVNULL,
    )
    worker = None
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)

        address = json.loads(file.read_text())["address"]
        with Workers(Compute(scheduler=address)) as alone, pytest.raises(InputError, match="has no workers"):
            _ = alone.client
        worker = subprocess.Popen(
            [
                *dask,
                "worker",
                address,
                "--nthreads",
                "1",
                "--no-dashboard",
                "--local-directory",
                str(tmp_path),
            ],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )
        for _ in range(100):
            with Workers(Compute(scheduler=address)) as own:
                try:
                    found = own.run(abs, [(-1,), (2,)], names(2))
                    break
                except InputError:
                    time.sleep(0.2)
        assert found == [1, 2]
        assert_kept_only_during_a_run(address, file)
        assert scheduler.poll() is None
        assert worker.poll() is None
    finally:
        for process in (worker, scheduler):
            if process is not None:
                process.terminate()
                process.wait()
