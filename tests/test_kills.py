"""Kills between any two writes and damage to any file change nothing: the resumed run is the uninterrupted one."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kills import (
    COMMANDS,
    DAMAGES,
    VARIANTS,
    Uninterrupted,
    copy_run,
    damage,
    kills_of_command,
    kinds_of_files,
    resume,
    run_to,
    wrong_kills,
)
from benchmarks.tiny_run import RUN, contents, tiny_config, write_tiny
from pipeline.artifacts.files import inside
from pipeline.panel import stage as panel
from pipeline.stages.stages import STAGES

LAST = STAGES[-1].name
FAST = ("linear",)
"""The judges that the panel has here; the others are slower, and write the same kinds of files."""
EVERY = 10
"""A write in so many is taken of audits that are not the default one; `python -m benchmarks.reliability` takes all."""


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
    return run_to(tiny_config(folder), place, LAST)


def test_a_kill_between_any_two_writes_of_the_default_audit(
    default: Uninterrupted, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(default.kills) > 100
    assert {kill.stage for kill in default.kills} == {stage.name for stage in STAGES}
    assert wrong_kills(default) == {}
    assert caplog.text == "", "a kill damages nothing"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_kill_between_two_writes_of_another_audit(
    name: str, folder: Path, default: Uninterrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    after, last, changes = VARIANTS[name]
    if after:
        copy_run(default.ends[after] / RUN, tmp_path / RUN)
    found = run_to(tiny_config(folder, **changes), tmp_path, last, EVERY, seed=name)
    assert found.kills
    assert wrong_kills(found) == {}
    assert caplog.text == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_between_any_two_writes_of_a_command_on_a_finished_run(
    name: str, default: Uninterrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = kills_of_command(COMMANDS[name], default.ends[LAST], tmp_path)
    assert found
    assert not any(found.values()), found
    assert caplog.text == ""


def test_every_kind_of_file_of_a_finished_run_is_made_anew_when_damaged(
    default: Uninterrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ways = itertools.cycle(DAMAGES)
    for number, names in enumerate(kinds_of_files(default.ends[LAST] / RUN).values()):
        for name, how in zip(names[-1:], ways):
            copy = tmp_path / str(number)
            copy_run(default.ends[LAST] / RUN, copy / RUN)
            damage(copy / RUN / name, how)
            caplog.clear()
            assert resume(default, copy, LAST) == [], f"{name}, {how}"
            assert name in caplog.text, f"{name}, {how}: nothing was said"
            shutil.rmtree(copy)


def test_damage_to_an_interrupted_run_is_found_when_it_goes_on(
    default: Uninterrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance, said = random.Random(0), 0
    for kill, how in zip(default.kills[::EVERY], itertools.cycle(DAMAGES)):
        copy = tmp_path / str(kill.number)
        copy_run(kill.folder / RUN, copy / RUN)
        outputs = next(stage.outputs for stage in STAGES if stage.name == kill.stage)
        names = [name for name in contents(copy / RUN) if inside(name, outputs) and ".part" not in name]
        if not names:
            continue
        name = chance.choice(names)
        damage(copy / RUN / name, how)
        caplog.clear()
        assert resume(default, copy, kill.stage) == [], f"{name}, {how}, {kill}"
        # What is missing of a stage that is not done is made like what was not there yet.
        assert how == "deleted" or name in caplog.text, f"{name}, {how}, {kill}: nothing was said"
        said += name in caplog.text
    assert said
