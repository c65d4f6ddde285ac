"""The run directory: names on disk, atomic writes, stage fingerprints, the run's record and its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, WinnowError

PARTIAL = ".part"
RUNS = Path("runs")
"""Where runs are kept, in the working directory, unless an audit is told otherwise."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, fsync it and rename it to `path`.

    Raises WinnowError when the disk is full; the old file, if any, is then still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except Exception as error:  # safetensors has errors of its own
        if is_disk_full(error):
            raise WinnowError(
                f"{path}: the disk is full",
                "Free some space and run the same command again: it goes on from here.",
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """True for ENOSPC and EDQUOT, also where a library has wrapped them into a message."""
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

    @property
    def run_id(self) -> str:
        return self.path.name

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def record(self) -> dict[str, Any]:
        path = self / "record.json"
        return read_json(path) if path.exists() else {"run_id": self.run_id, "stages": {}}

    def update_record(self, **entries: Any) -> None:
        write_json(self / "record.json", self.record | entries)

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage found out (counts, choices), as it stands in the record."""
        return self.record["stages"][stage]["facts"]

    def is_complete(self, stage: str, fingerprint: str) -> bool:
        return self.record["stages"].get(stage, {}).get("fingerprint") == fingerprint

    def begin_stage(self, stage: str, fingerprint: str, outputs: tuple[str, ...]) -> None:
        """Forget what the stage wrote under another fingerprint; keep its pieces if it was merely interrupted."""
        marker = self / "stages" / f"{stage}.json"
        started = read_json(marker)["fingerprint"] if marker.exists() else None
        if started != fingerprint:
            for name in outputs:
                remove(self / name)
            write_json(marker, {"fingerprint": fingerprint})
        stages = self.record["stages"]
        if stages.pop(stage, None) is not None:
            self.update_record(stages=stages)

    def finish_stage(self, stage: str, fingerprint: str, entry: dict[str, Any]) -> None:
        stages = self.record["stages"] | {stage: {"fingerprint": fingerprint, **entry}}
        self.update_record(stages=stages)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for this process; it is freed by the system however the process ends.

        Raises InputError when another audit holds it or it can't be written to.
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
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise InputError(
                    f"{self.path}: another audit is running in it (process {file.read().strip() or '?'})",
                    "Wait for it to end, or choose another --output.",
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for partial in self.path.rglob(f"*{PARTIAL}"):
                partial.unlink(missing_ok=True)
            yield


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(path: Path, target: Path) -> None:
    """A relative link, so that the run directory can be moved."""
    if not path.is_symlink():
        path.symlink_to(os.path.relpath(target, path.parent))


def existing_run(path: str | Path, needed: str) -> RunDirectory:
    run = RunDirectory(Path(path))
    if not (run / "record.json").exists():
        raise InputError(f"{path}: not a run directory", "`winnow runs` lists the runs that there are.")
    if needed not in run.record["stages"]:
        raise InputError(
            f"{path}: the audit has not come to the end of {needed}", "Run `winnow audit` to its end."
        )
    return run
