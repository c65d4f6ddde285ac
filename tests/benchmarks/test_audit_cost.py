"""Memory of every process of an audit is seen, and processes get names."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.audit_cost import MemorySampler, process_kind

BYTES = 80 * 2**20
GRANDCHILD = f"import sys; held = b'x' * {BYTES}; print('ready', flush=True); sys.stdin.read()"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}])"


def test_the_sampler_sees_what_a_descendant_holds() -> None:
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        sampler = MemorySampler(child.pid)
        until = time.monotonic() + 30
        while sampler.total < BYTES and time.monotonic() < until:
            time.sleep(0.05)
        sampler.stop()
        child.stdin.close()
    assert sampler.largest["other"] >= BYTES
    assert 0 < sampler.largest["winnow"] < BYTES
    assert sampler.total >= sampler.largest["other"] + sampler.largest["winnow"] // 2


def test_processes_are_named_after_their_command_lines() -> None:
    worker = ["python", "-P", "pipeline/workers/local_worker.py"]
    assert process_kind(worker, is_root=False) == "Dask worker"
    server = ["python", "-P", "flows/server_process.py", "4200"]
    assert process_kind(server, is_root=False) == "Prefect server"
    assert process_kind(["python", "-m", "flows.cli", "audit"], is_root=True) == "winnow"
