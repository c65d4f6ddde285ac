"""Local workers, whatever Python process starts them: a script without a guard, a session, a notebook."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from cluster_tasks import double, grow
from digits_run import ROOT, digits_config
from nbclient import NotebookClient

from pipeline.config import Compute
from pipeline.errors import WinnowError
from pipeline.runs.directory import RunDirectory
from pipeline.workers.cluster import Workers

PATIENCE_SECONDS = 180
SNIPPET = 'import pipeline\n\nresult = pipeline.audit("digits.yaml")\nprint("verdict:", result.verdict)\n'
SLEEPERS = """
from pathlib import Path
from cluster_tasks import sleep
from pipeline.workers.cluster import Workers
from pipeline.config import Compute
from pipeline.runs.directory import RunDirectory
with RunDirectory(Path("run")).lock() as lock, Workers(Compute(workers=2), lock) as workers:
    print(*workers.client.run(__import__("os").getpid).values(), flush=True)
    workers.run(sleep, [(600,), (600,)], ["one", "two"])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small config, in which audits are run."""
    config = digits_config(
        verification__seeds=0,
        detection__halves=False,
        detection__backdoors=False,
        detection__panel=False,
        compute__workers=2,
        training__epochs=3,
    )
    (tmp_path / "digits.yaml").write_text(config.to_yaml())
    (tmp_path / "data_samples").symlink_to(ROOT / "data_samples")
    return tmp_path


def environment(*more: Path) -> dict[str, str]:
    path = [str(ROOT), *map(str, more), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def run(arguments: list[str], folder: Path, given: str = "", *more: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(*more),
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_snippet_works_as_a_script_without_a_guard(folder: Path) -> None:
    (folder / "clean.py").write_text(SNIPPET)
    assert run(["clean.py"], folder).count("verdict: not tested") == 1


def test_the_snippet_works_in_a_session(folder: Path) -> None:
    assert run(["-i", "-q"], folder, SNIPPET).count("verdict: not tested") == 1


def test_the_snippet_works_in_a_notebook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    cells = [nbformat.v4.new_code_cell(SNIPPET), nbformat.v4.new_code_cell("result")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=PATIENCE_SECONDS, kernel_name="python3", resources=resources).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "verdict: not tested" in printed
    assert "text/html" in notebook.cells[1].outputs[0].data


def test_folders_with_the_names_of_our_packages_do_not_stand_in_the_way(folder: Path) -> None:
    for name in ("pipeline", "flows"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    (folder / "scripts").mkdir()
    code = "import pipeline, os, sys\nsys.path.insert(0, os.getcwd())\n" + SNIPPET
    (folder / "scripts" / "clean.py").write_text(code)
    assert "verdict: not tested" in run(["scripts/clean.py"], folder)


def test_workers_find_modules_where_their_parent_does(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def tripled(number):\n    return 3 * number\n")
    code = (
        "import sys\nsys.path.insert(0, 'lib')\nfrom mine import tripled\n"
        "from pipeline.workers.cluster import Workers\nfrom pipeline.config import Compute\n"
        "with Workers(Compute(workers=1)) as workers:\n"
        "    print(workers.run(tripled, [(2,)], ['task']))\n"
    )
    (tmp_path / "lib").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "lib" / "mine.py")
    assert run(["-c", code], tmp_path) == "[6]\n"


def passing(folder: Path) -> Path:
    """For temporary files."""
    path = folder / "passing"
    path.mkdir(exist_ok=True)
    return path


def sleeping_workers(folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A script whose two workers sleep in a task, and these workers."""
    (folder / "sleepers.py").write_text(SLEEPERS)
    script = subprocess.Popen(
        [sys.executable, "sleepers.py"],
        cwd=folder,
        env=environment(ROOT / "tests") | {"TMPDIR": str(passing(folder))},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None
    workers = [psutil.Process(int(number)) for number in script.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.5)  # until the tasks have begun
    return script, workers


def assert_ended(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script, workers = sleeping_workers(tmp_path)
    script.kill()
    script.wait()
    with RunDirectory(tmp_path / "run").lock():
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    assert_ended(workers)
    assert not list(passing(tmp_path).iterdir())


def test_an_interruption_from_the_keyboard_ends_the_script_and_its_workers(tmp_path: Path) -> None:
    script, workers = sleeping_workers(tmp_path)
    os.killpg(script.pid, signal.SIGINT)
    script.wait(PATIENCE_SECONDS)
    assert_ended(workers)
    assert not list(passing(tmp_path).iterdir())


def test_workers_leave_nothing_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Workers(Compute(workers=1)) as workers:
        workers.run(double, [(2,)], ["task"])
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_worker_that_takes_too_much_memory_is_ended() -> None:
    with (
        Workers(Compute(workers=1, memory_per_worker=300 * 2**20)) as workers,
        pytest.raises(WinnowError, match="grower: its worker died three times"),
    ):
        workers.run(grow, [(2**30,)], ["grower"])
