from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from pipeline.attribution.atomic import write_folder_atomically
from pipeline.errors import InputError, WinnowError
from pipeline.runs import directory
from pipeline.runs.directory import RunDirectory, write_atomically, write_json, write_text


def write_half(path: Path) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("interrupted")


def write_half_folder(path: Path) -> None:
    with write_folder_atomically(path) as made:
        write_text(made / "newer", "half")
        raise RuntimeError("interrupted")


def test_a_failed_write_leaves_the_old_file_and_no_partial(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == '{\n "old": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_replaces_the_old_one_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("old", "new"):
        with write_folder_atomically(folder) as made:
            write_text(made / "in" / name, name)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["new"]
    with pytest.raises(RuntimeError):
        write_half_folder(folder)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["new"]


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="the disk is full"), write_atomically(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_known_by_a_librarys_own_error_too(tmp_path: Path) -> None:
    with pytest.raises(WinnowError, match="the disk is full"), write_atomically(tmp_path / "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_real_full_disk_is_said_in_words(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(WinnowError, match="the disk is full"),
        write_atomically(tmp_path / "a"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x")


def test_a_stage_is_complete_only_under_its_fingerprint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.begin_stage("train", "aa", ("training",))
    run.finish_stage("train", "aa", {"facts": {"epochs": 3}})
    assert run.is_complete("train", "aa")
    assert not run.is_complete("train", "bb")
    assert run.facts("train") == {"epochs": 3}


def test_pieces_survive_an_interruption_but_not_another_fingerprint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.begin_stage("attribute", "aa", ("scores",))
    piece = tmp_path / "scores" / "chunk.parquet"
    write_text(piece, "x")
    run.begin_stage("attribute", "aa", ("scores",))
    assert piece.exists()
    run.begin_stage("attribute", "bb", ("scores",))
    assert not piece.exists()


def test_a_second_audit_in_the_same_directory_is_refused_and_named(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from pipeline.runs.directory import RunDirectory\n"
        "with RunDirectory(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid}"), RunDirectory(tmp_path).lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with RunDirectory(tmp_path).lock():
        pass


def test_an_audit_waits_for_the_workers_of_a_killed_one(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, pathlib, time; from pipeline.runs.directory import RunDirectory\n"
        "worker = 'import pathlib, sys, time; time.sleep(2); pathlib.Path(sys.argv[1]).touch()'\n"
        "with RunDirectory(pathlib.Path(sys.argv[1])).lock() as lock:\n"
        "    subprocess.Popen([sys.executable, '-c', worker, sys.argv[2]], pass_fds=(lock,))\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    ended = tmp_path / "ended"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run"), str(ended)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    assert not ended.exists()
    with RunDirectory(tmp_path / "run").lock():
        assert ended.exists()


def test_workers_of_a_killed_audit_that_do_not_end_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "ORPHAN_SECONDS", 0.1)
    (tmp_path / ".lock").write_text("999999999")  # no process has this number
    with (tmp_path / ".lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(InputError, match="a worker of an interrupted audit still runs"),
            RunDirectory(tmp_path).lock(),
        ):
            pass


def test_partial_files_of_a_killed_audit_are_removed(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "chunk.parquet.99.part").write_text("half")
    (tmp_path / "trace.99.part").mkdir()
    (tmp_path / "trace.99.part" / "page.html.99.part").write_text("half")
    with RunDirectory(tmp_path).lock():
        assert not list(tmp_path.rglob("*.part"))


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="can't be written to"), RunDirectory(file / "run").lock():
        pass
