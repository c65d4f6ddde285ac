"""Tasks for real workers; in a module of their own that workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pipeline.attribution.errors import NonFiniteError
from pipeline.errors import InputError


def double(value: int) -> int:
    return 2 * value


def process_id(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def torch_threads(_: int) -> int:
    import torch

    return torch.get_num_threads()


def die_once(flag: Path) -> str:
    """Kill the worker the first time, as the system does when memory runs out."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(_: int) -> None:
    raise InputError("shard.parquet, row 3: label is null", "Drop it.")


def nan(_: int) -> None:
    raise NonFiniteError("The input covariance of layer '1' has a NaN.", "Look for NaN.")


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def grow(size: int) -> int:
    """Hold `size` bytes for a while."""
    held = bytearray(b"1") * size
    time.sleep(30)
    return len(held)
