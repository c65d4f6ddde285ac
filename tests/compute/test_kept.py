"""What workers keep between tasks: nothing is read again for every chunk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from digits_run import digits_config, run_stages

from benchmarks.inline import Inline
from pipeline.runs.context import AuditContext
from pipeline.runs.directory import RunDirectory, write_text
from pipeline.workers import kept


@pytest.fixture(autouse=True)
def nothing_is_kept() -> None:
    kept.drop_kept()


def test_neither_weights_nor_factors_are_read_again_for_every_chunk(tmp_path: Path) -> None:
    """Twelve chunks, 24 checkpoints and an early window: a cache of a few entries would miss at every one."""
    config = digits_config(training__epochs=24, training__checkpoints=24, compute__chunk_rows=100)
    run = RunDirectory(tmp_path / "run")
    write_text(run / "config.yaml", config.to_yaml())
    context = AuditContext(config, run, Inline(config.compute))
    loads = {}
    for stage in ("train", "factors", "attribute"):
        kept.loads.clear()
        run_stages(context, stage)
        loads[stage] = dict(kept.loads)
    assert (run / "factors/early").exists()
    plans = 2
    assert loads["factors"].pop("tensors") == plans * (24 + 2)  # every checkpoint, the tail and the bases
    assert all(count <= plans for count in loads["factors"].values())
    assert loads["attribute"] == {}  # in one process, all of it is there from the stage before


def test_weights_beyond_the_budget_go_the_oldest_first(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.touch()
    tensors = {"weight": torch.zeros(100)}  # 400 bytes

    def load(path: Path) -> None:
        kept.keep_tensors(path, lambda: tensors, 900)

    kept.loads.clear()
    for path in (paths[0], paths[1], paths[0], paths[2]):
        load(path)
    assert kept.loads["tensors"] == 3
    load(paths[0])
    assert kept.loads["tensors"] == 3
    load(paths[1])
    assert kept.loads["tensors"] == 4
    assert kept.kept_bytes() == 800


def test_weights_larger_than_the_budget_are_kept_while_they_are_used(tmp_path: Path) -> None:
    (tmp_path / "large").touch()
    kept.loads.clear()
    for _ in range(2):
        kept.keep_tensors(tmp_path / "large", lambda: {"weight": torch.zeros(1000)}, 10)
    assert kept.loads["tensors"] == 1


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    path.write_text("1")
    assert kept.keep("thing", path, lambda: int(path.read_text())) == 1
    path.write_text("2")
    path.touch()
    assert kept.keep("thing", path, lambda: int(path.read_text())) == 2


def test_objects_of_a_run_stay_until_many_other_runs_were_worked_on(tmp_path: Path) -> None:
    kept.loads.clear()
    for number in range(kept.RUNS_AT_MOST + 1):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "config.yaml").touch()
        for each in range(40):
            (run / f"file-{each}").touch()
            kept.keep("thing", run / f"file-{each}", lambda: 1)
    before = kept.loads["thing"]
    kept.keep("thing", run / "file-0", lambda: 1)
    assert kept.loads["thing"] == before
    kept.keep("thing", tmp_path / "0" / "file-0", lambda: 1)
    assert kept.loads["thing"] == before + 1
