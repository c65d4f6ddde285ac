"""Real runs on the shipped digits, made once per test session and copied by the tests that change them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Libraries read these at their import. Threads beyond the cores wait for each other: tests run side by side.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
import torch
from digits_run import ROOT, digits_config, run_until
from hypothesis import settings
from shared_workers import SharedWorkers

from pipeline.workers import cluster
from pipeline.workers.local_cluster import start_cluster

# The same examples on every machine: a change fails the tests that it breaks, not those that chance picks.
# `--hypothesis-profile=search` draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=500, deadline=None)
settings.load_profile("repeatable")


LONGEST = (
    "test_resume.py",
    "test_any_file.py",
    "test_check.py",
    "test_kills.py",
    "test_trace.py",
    "test_package.py",
    "test_schedule.py",
    "test_local_cluster.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that none of them keeps one process busy when the others are done."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def _a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copies of sources of other formats than Parquet; processes that tests start have it too."""
    os.environ["WINNOW_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread_and_the_project_as_working_directory() -> Iterator[None]:
    before = Path.cwd()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    yield
    os.chdir(before)


@pytest.fixture(autouse=True, scope="module")
def _logs_as_before() -> Iterator[None]:
    """Other tests look for warnings: a library that silences them would fail tests far from its own."""
    root = logging.getLogger()
    before = root.level, root.manager.disable
    yield
    now = root.level, root.manager.disable
    root.setLevel(before[0])
    logging.disable(before[1])
    assert now == before, "this file's tests changed the level of all logging"


@pytest.fixture(autouse=True, scope="session")
def _shared_workers(
    _one_thread_and_the_project_as_working_directory: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    shared = SharedWorkers(tmp_path_factory.mktemp("workers"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "start_cluster", shared.start)
        yield
    shared.end()


@pytest.fixture(scope="module")
def new_workers() -> Iterator[None]:
    """Each audit of a module starts workers of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "start_cluster", start_cluster)
        yield


@pytest.fixture(scope="session")
def _detected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "run"
    run_until(digits_config(), path, "detect")
    return path


@pytest.fixture
def detected_run(_detected: Path, tmp_path: Path) -> Path:
    """A copy of a digits run whose stages up to `detect` are done."""
    path = tmp_path / "run"
    shutil.copytree(_detected, path)
    return path
