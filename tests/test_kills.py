"""A kill between any two writes changes nothing: the resumed run is the uninterrupted one, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import Uninterrupted, copy_run, run_to, wrong_kills
from benchmarks.tiny_run import RUN, differences, tiny_audit, tiny_config, write_tiny
from pipeline.panel import stage as panel
from pipeline.stages import STAGES

FAST = ("linear",)
"""The judges that the panel has here; the others are slower, and write the same kinds of files."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("kills")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        choose = panel.choose_judges
        patch.setattr(
            panel, "choose_judges", lambda *given: [each for each in choose(*given) if each.name in FAST]
        )
        yield folder


@pytest.fixture(scope="module")
def default(folder: Path) -> Uninterrupted:
    """The default audit, with what lay on disk before each of its writes."""
    place = folder / "default"
    place.mkdir()
    return run_to(tiny_config(folder), place, STAGES[-1].name)


def test_a_kill_between_any_two_writes_of_the_default_audit(default: Uninterrupted) -> None:
    assert len(default.kills) > 100
    assert {kill.stage for kill in default.kills} == {stage.name for stage in STAGES}
    assert wrong_kills(default) == {}
