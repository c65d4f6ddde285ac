"""Real runs on the shipped digits, made once per test session and copied by the tests that change them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.config import AuditConfig, load_config
from pipeline.context import AuditContext
from pipeline.open_run import open_run
from pipeline.stages import STAGES, fingerprints, run_stage

ROOT = Path(__file__).parents[1]
SMALL = {
    "training.epochs": 6,
    "training.checkpoints": 3,
    "model.hidden": [32],
    "compute.workers": 1,
    "verification.seeds": 2,
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread_and_the_project_as_working_directory() -> Iterator[None]:
    before = Path.cwd()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    yield
    os.chdir(before)


def digits_config(**changes: object) -> AuditConfig:
    """The example config with small settings; `section__key=value` changes more."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(ROOT / "configs" / "digits.yaml", SMALL | dotted)


def run_until(config: AuditConfig, path: Path, last: str) -> None:
    """All stages up to `last` in the run directory `path`, on real workers."""
    with open_run(config, path) as context:
        run_stages(context, last)


def run_stages(context: AuditContext, last: str) -> None:
    expected = fingerprints(context.config)
    for stage in STAGES:
        run_stage(stage, context, expected[stage.name])
        if stage.name == last:
            return


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
