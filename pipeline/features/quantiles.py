"""Quantiles of a stream of numbers, independent of how the stream is cut into batches."""

from __future__ import annotations

import numpy as np

MOST = 10_000
"""Numbers that are kept: of a longer stream every second, every fourth and so on."""


class Quantiles:
    """Of one column; numbers that are not finite are left out."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._step, self._seen = 1, 0

    def update(self, values: np.ndarray) -> None:
        """Add numbers: float64 [rows]."""
        values = values[np.isfinite(values)]
        self._kept.append(values[-self._seen % self._step :: self._step].copy())
        self._seen += len(values)
        while sum(map(len, self._kept)) > MOST:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._step *= 2

    def at(self, parts: int) -> list[float]:
        """The different ones among the lowest number, the quantiles that cut the rest into parts, and the highest."""
        if not self._seen:
            return []
        cuts = np.linspace(0, 1, parts + 1)
        found: list[float] = np.unique(np.quantile(np.concatenate(self._kept), cuts)).tolist()
        return found
