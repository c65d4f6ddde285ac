"""A cache in each worker process, so that a task finds in memory what an earlier task has loaded.

Objects of a run (config, data, model, segments) stay in the cache while the run is worked on. Weights of checkpoints
are evicted when they exceed the bytes that `budgets` allows.
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
"""The objects of this many runs are kept; the repeats of a run count as runs."""

_objects: OrderedDict[Path, dict[tuple[str, Path], tuple[tuple[int, int | None], Any]]] = OrderedDict()
_tensors: OrderedDict[Path, tuple[int, Tensors]] = OrderedDict()
loads: Counter[str] = Counter()
"""Kind of object → how often it was loaded."""


def keep(kind: str, path: Path, load: Callable[[], Kept], beside: Path | None = None) -> Kept:
    """Load an object of a run, or take it from the cache.

    Args:
        kind: of the object; it is part of the cache's key.
        path: the file that the object is made from; the object is loaded again when the file has changed.
        load: makes the object.
        beside: a file that the object is made from too, if it is there.
    """
    run = run_of(path.parent)
    if run not in _objects:
        _objects[run] = {}
        while len(_objects) > RUNS_AT_MOST:
            _objects.popitem(last=False)
    _objects.move_to_end(run)
    of_run = _objects[run]
    changed = (
        path.stat().st_mtime_ns,
        beside.stat().st_mtime_ns if beside is not None and beside.exists() else None,
    )
    found = of_run.get((kind, path))
    if found is None or found[0] != changed:
        loads[kind] += 1
        value = load()
        # `load()` may have used so many other runs that this run was dropped from the cache.
        _objects.setdefault(run, of_run)[kind, path] = changed, value
        return value
    return found[1]


def keep_tensors(path: Path, load: Callable[[], Tensors], most_bytes: int) -> Tensors:
    """Load tensors, or take them from the cache.

    Args:
        path: the file of the tensors; they are loaded again when the file has changed.
        load: makes the tensors.
        most_bytes: above this total the least recently used tensors are evicted.
    """
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
    """The size of all tensors in the cache."""
    return sum(tensor.nbytes for _, tensors in _tensors.values() for tensor in tensors.values())


def drop_kept() -> None:
    """Empty the cache; the workers of a cluster that outlives a run would hold its memory in vain."""
    _objects.clear()
    _tensors.clear()


@lru_cache(maxsize=4096)
def run_of(folder: Path) -> Path:
    """The run directory that contains a folder; outside of runs, the folder itself."""
    return next((each for each in (folder, *folder.parents) if (each / "config.yaml").exists()), folder)
