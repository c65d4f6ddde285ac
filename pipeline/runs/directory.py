"""The run directory: atomic writes, the fingerprints of stages, the run's record and its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import psutil

from pipeline import artifacts
from pipeline.artifacts import Ledger, remove
from pipeline.attribution import atomic
from pipeline.attribution.atomic import PARTIAL
from pipeline.errors import InputError, WinnowError

__all__ = [
    "PARTIAL",
    "RUNS",
    "RunDirectory",
    "existing_run",
    "link",
    "read_json",
    "remove",
    "write_atomically",
    "write_json",
    "write_text",
]

RUNS = Path("runs")
"""The default folder for runs, in the working directory."""
ORPHAN_SECONDS = 60.0
"""How long an audit waits for the workers of one that was killed; they end within seconds, later on a busy machine."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """`atomic.write_atomically` with a clear error for a full disk.

    Raises:
        WinnowError: the disk is full; the old file, if there was one, is kept.
    """
    try:
        with atomic.write_atomically(path) as temporary:
            yield temporary
    except Exception as error:  # safetensors raises its own types
        if _is_disk_full(error):
            raise WinnowError(
                f"{path}: the disk is full",
                "Free some space and run the same command again: it resumes from here.",
            ) from None
        raise


def _is_disk_full(error: BaseException) -> bool:
    """True for ENOSPC and EDQUOT, and for library errors that only quote them in their message."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class RunDirectory:
    """One run: `runs/<name>/<run-id>/`."""

    def __init__(self, path: Path):
        self.path = path
        self._said: set[str] = set()
        """Damaged files that `is_complete` has reported already."""

    @property
    def run_id(self) -> str:
        return self.path.name

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def record(self) -> dict[str, Any]:
        """The contents of `record.json`; a record without stages if there is no such file.

        Raises:
            InputError: the file is damaged.
        """
        if not (self / "record.json").exists():
            return {"run_id": self.run_id, "stages": {}}
        found = self.read("record.json")
        if not isinstance(found.get("stages"), dict):
            raise self.damaged("record.json", "is damaged")
        return found

    def read(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run that holds an object.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            found = read_json(self / name)
        except (OSError, ValueError) as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else "is damaged"
            raise self.damaged(name, what) from None
        if not isinstance(found, dict):
            raise self.damaged(name, "is damaged")
        return found

    def update_record(self, **entries: Any) -> None:
        write_json(self / "record.json", self.record | entries)

    def facts(self, stage: str) -> dict[str, Any]:
        """The facts (counts, choices) that a finished stage has left in the record."""
        return self.record["stages"][stage]["facts"]

    def damaged(self, name: str, what: str) -> InputError:
        return InputError(
            f"{self / name}: {what}",
            f"`winnow audit` with the run's own config and --output {self.path} makes anew what is damaged, and "
            "keeps the rest.",
        )

    def check(self, *names: str) -> None:
        """Check that these files exist and have not changed since they were written.

        Raises:
            InputError: a file is missing or has changed.
        """
        ledger = Ledger(self.path)
        for name in names:
            state = ledger.state(self / name)
            if state not in ("whole", "unnamed"):
                raise self.damaged(name, state)

    def check_stages(self, *stages: str) -> None:
        """Check that the files of these stages have not changed since they were written.

        Stages of earlier versions wrote no checksums; their files are not checked.

        Raises:
            InputError: a file is missing or has changed.
        """
        ledger = Ledger(self.path)
        for stage in stages:
            for name, what in (artifacts.damage(ledger, stage) or {}).items():
                raise self.damaged(name, what)

    def mend_record(self) -> None:
        """Remove a damaged record and report it. Every stage then checks the files it has written and resumes."""
        if not (self / "record.json").exists() and not Ledger(self.path).was_there("record.json"):
            return
        try:
            self.check("record.json")
            _ = self.record
        except InputError as error:
            artifacts.say("%s; the stages go through what they wrote and make it anew", error.message)
            remove(self / "record.json")

    def is_complete(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage is done and all of its files are whole; damaged files are reported."""
        if self.record["stages"].get(stage, {}).get("fingerprint") != fingerprint:
            return False
        found = artifacts.damage(Ledger(self.path), stage)
        for name, what in (found or {}).items():
            artifacts.say("%s: %s; the stage %s makes it anew", self / name, what, stage)
            self._said.add(name)
        return found == {}

    def fingerprint(self, stage: str) -> str:
        """The fingerprint under which a stage was last begun, whether the stage was finished or interrupted.

        Raises:
            InputError: the stage's manifest is missing or damaged.
        """
        found = self.read(f"stages/{stage}.json").get("fingerprint")
        if not isinstance(found, str):
            raise self.damaged(f"stages/{stage}.json", "is damaged")
        return found

    def begin_stage(
        self,
        stage: str,
        fingerprint: str,
        outputs: tuple[str, ...],
        changes: tuple[str, ...] = (),
        before: str | None = None,
        keeps: tuple[str, ...] = (),
    ) -> None:
        """Prepare the stage's outputs before it runs.

        Outputs under another fingerprint are removed, except those in `keeps` while the stage before has the same
        fingerprint. If the stage was interrupted under this fingerprint, its whole files are kept. Files that are
        damaged or that the stage did not write are removed, and this is reported.

        Args:
            stage: the name of the stage.
            fingerprint: of the config and the earlier stages.
            outputs: names in the run directory that belong to the stage.
            changes: files of earlier stages that the stage rewrites.
            before: the name of the stage before; None for the first stage.
            keeps: names in `outputs` that depend only on the stages before.
        """
        stages = self.record["stages"]
        if stages.pop(stage, None) is not None:
            self.update_record(stages=stages)
        earlier = stages.get(before, {}).get("fingerprint")
        artifacts.begin_stage(self.path, stage, fingerprint, outputs, changes, self._said, earlier, keeps)

    def finish_stage(self, stage: str, fingerprint: str, entry: dict[str, Any]) -> None:
        artifacts.finish_stage(self.path, stage, fingerprint)
        stages = self.record["stages"] | {stage: {"fingerprint": fingerprint, **entry}}
        self.update_record(stages=stages)

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Lock the run directory; the operating system unlocks it when the process ends in any way.

        Worker processes that inherit the lock's file descriptor keep the lock: a killed audit's workers write on for a
        moment. So an audit that finds the lock of a process that has ended waits for its workers.

        Yields:
            The file descriptor of the lock.

        Raises:
            InputError: another audit holds the lock, or the directory can't be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self / ".lock").open("a+")
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise InputError(
                f"{self.path}: can't be written to ({reason})", "Choose another --output."
            ) from None
        with file:
            self._wait_for(file)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            artifacts.begin_journal(self.path)
            for partial in list(self.path.rglob(f"*{PARTIAL}")):
                remove(partial)
            yield file.fileno()

    def _wait_for(self, file: TextIO) -> None:
        """Lock a file; wait only while its lock is that of a process that has ended.

        Raises:
            InputError: the lock is held by an audit that runs, or by workers that don't end.
        """
        until = time.monotonic() + ORPHAN_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
            ended = holder.isdecimal() and not psutil.pid_exists(int(holder))
            if not ended or time.monotonic() > until:
                what = "a worker of an interrupted audit still runs" if ended else "another audit is running"
                raise InputError(
                    f"{self.path}: {what} in it (process {holder or '?'})",
                    "Wait for it to end, or choose another --output.",
                )
            time.sleep(0.05)


def link(path: Path, target: Path) -> None:
    """Make a symbolic link, unless there is one; it is relative, so that the run directory can be moved."""
    if not path.is_symlink():
        path.symlink_to(os.path.relpath(target, path.parent))


def existing_run(path: str | Path, needed: str) -> RunDirectory:
    """Open the run directory of an earlier audit.

    Args:
        path: the run directory.
        needed: the stage that must be finished.

    Raises:
        InputError: there is no run, the stage is not finished, or the record or the config is damaged.
    """
    run = RunDirectory(Path(path))
    if not (run / "record.json").exists():
        raise InputError(f"{path}: not a run directory", "`winnow runs` lists the existing runs.")
    if needed not in run.record["stages"]:
        raise InputError(
            f"{path}: the audit has not finished the stage {needed}", "Run `winnow audit` to its end."
        )
    run.check("record.json", "config.yaml")
    return run
