"""Two or more pieces of work timed in turns, and their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Row = dict[str, Any]
Seconds = dict[str, list[tuple[float, float]]]


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """CPU seconds, wall seconds, what ``work`` gave."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.process_time() - cpu, time.perf_counter() - wall, found


def turns(works: dict[str, Callable[[], Any]], repeats: int) -> tuple[Seconds, dict[str, Any]]:
    """(CPU, wall) seconds of each, taking turns, after one turn that isn't counted; and the last results."""
    seconds: Seconds = {name: [] for name in works}
    found: dict[str, Any] = {}
    for turn in range(repeats + 1):
        for name, work in works.items():
            cpu, wall, found[name] = timed(work)
            if turn:
                seconds[name].append((cpu, wall))
    return seconds, found


def summary(values: Sequence[float]) -> Row:
    return {"value": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def seconds_rows(task: str, seconds: Seconds, extra: Row) -> list[Row]:
    rows = []
    for method, pairs in seconds.items():
        for metric, place in (("seconds", 0), ("wall_seconds", 1)):
            figures = summary([pair[place] for pair in pairs])
            rows.append({"task": task, "method": method, "metric": metric} | figures | extra)
    return rows


def ratios(above: Sequence[tuple[float, float]], below: Sequence[tuple[float, float]]) -> list[float]:
    """CPU time of one turn over that of the same turn."""
    return [a[0] / b[0] for a, b in zip(above, below, strict=True)]


def relative(first: Tensor, second: Tensor) -> float:
    """The largest difference relative to the largest score."""
    return ((first - second).abs().max() / second.abs().max()).item()
