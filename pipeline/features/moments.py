"""Mean and standard deviation of a stream of rows, independent of how the stream is cut into batches."""

from __future__ import annotations

import numpy as np

BLOCK = 4096  # rows that are summed at once, whatever the batches


class Moments:
    """Per column: count, mean and population standard deviation, NaN left out.

    Rows are gathered into blocks of fixed size and these merged in order (Chan, Golub & LeVeque 1983): digits
    aren't lost when the mean is large, and the bits of the result don't depend on the batches.
    """

    def __init__(self, width: int):
        self.pending = np.empty((0, width))
        self.count = np.zeros(width, dtype=np.int64)
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)  # Σ (x − mean)²
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)

    def update(self, values: np.ndarray) -> None:
        """Add rows: float64 [rows, width]."""
        values = np.concatenate([self.pending, values])
        whole = len(values) - len(values) % BLOCK
        for start in range(0, whole, BLOCK):
            self._merge(values[start : start + BLOCK])
        self.pending = values[whole:].copy()

    def finish(self) -> None:
        """Merge what is left; nothing can be added after it."""
        if len(self.pending):
            self._merge(self.pending)
        self.pending = self.pending[:0]

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, float64 [width]; exactly 0 for a constant column."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(self.low < self.high, std, 0.0)

    def _merge(self, block: np.ndarray) -> None:
        valid = ~np.isnan(block)
        count = valid.sum(axis=0)
        mean = np.where(valid, block, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(valid, block - mean, 0.0) ** 2).sum(axis=0)
        total = self.count + count
        share = count / np.maximum(total, 1)
        step = mean - self.mean
        self.squares += squares + step**2 * self.count * share
        self.mean += step * share
        self.count = total
        self.low = np.minimum(self.low, np.where(valid, block, np.inf).min(axis=0))
        self.high = np.maximum(self.high, np.where(valid, block, -np.inf).max(axis=0))
