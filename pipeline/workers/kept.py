"""What a process keeps between tasks, so that a task that follows finds it in memory.

Objects of a run (its config, data, model, segments) are kept as long as it is worked on. Weights come and go by the
checkpoint; of these as many bytes are kept as `budgets` allows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

Kept = TypeVar("Kept")
Tensors = dict[str, Tensor]
RUNS_AT_MOST = 4
"""Runs of which objects are kept: a run, and its repeats, which are runs of their own."""

_objects: OrderedDict[Path, dict[tuple[str, Path], tuple[int, Any]]] = OrderedDict()
_tensors: OrderedDict[Path, tuple[int, Tensors]] = OrderedDict()
loads: Counter[str] = Counter()
"""How often something was loaded, by its kind."""


def keep(kind: str, path: Path, load: Callable[[], Kept]) -> Kept:
    """`load()`, or what it gave before for the same kind and unchanged file of a run that is worked on."""
    run = run_of(path.parent)
    if run not in _objects:
        _objects[run] = {}
        while len(_objects) > RUNS_AT_MOST:
            _objects.popitem(last=False)
    _objects.move_to_end(run)
    of_run, changed = _objects[run], path.stat().st_mtime_ns
    found = of_run.get((kind, path))
    if found is None or found[0] != changed:
        loads[kind] += 1
        value = load()
        # Loading may have used other runs, so many that this one was dropped.
        _objects.setdefault(run, of_run)[kind, path] = changed, value
        return value
    return found[1]


def keep_tensors(path: Path, load: Callable[[], Tensors], most_bytes: int) -> Tensors:
    """`load()`, or what it gave before for the unchanged file; above `most_bytes` the least recently used go."""
    changed = path.stat().st_mtime_ns
    found = _tensors.get(path)
    if found is None or found[0] != changed:
        loads["tensors"] += 1
        found = changed, load()
        _tensors[path] = found
    _tensors.move_to_end(path)
    while len(_tensors) > 1 and kept_bytes() > most_bytes:
        _tensors.popitem(last=False)
    return found[1]


def kept_bytes() -> int:
    """Of all tensors that are kept by their file."""
    return sum(tensor.nbytes for _, tensors in _tensors.values() for tensor in tensors.values())


def drop_kept() -> None:
    """Drop everything: on a cluster that outlives its runs it would lie in memory for nothing."""
    _objects.clear()
    _tensors.clear()


@lru_cache(maxsize=4096)
def run_of(folder: Path) -> Path:
    """The run directory that a folder lies in, or the folder itself."""
    return next((each for each in (folder, *folder.parents) if (each / "config.yaml").exists()), folder)
