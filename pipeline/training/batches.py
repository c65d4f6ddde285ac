"""The rows of one training and the order in which they are seen: in memory where they fit, else streamed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encoded import EncodedData, Rows

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Selection:
    """Which train rows take part, with which labels and class weights.

    keep: bool `[train rows]` or None for all; labels: replaces the labels, `[train rows]`, or None;
    class_weights: `[classes]` or None.
    """

    keep: np.ndarray | None = None
    labels: Tensor | None = None
    class_weights: Tensor | None = None

    def count(self, rows: int) -> int:
        return rows if self.keep is None else int(self.keep.sum())

    def of_chunk(self, rows: Rows, first: int) -> Rows:
        """The selected rows of a chunk whose first row is train row `first`."""
        place = slice(first, first + len(rows))
        if self.labels is not None:
            rows = replace(rows, labels=self.labels[place].to(rows.labels.dtype))
        rows = weighted(rows, self.class_weights)
        return rows if self.keep is None else rows.select(torch.from_numpy(np.flatnonzero(self.keep[place])))


def weighted(rows: Rows, class_weights: Tensor | None) -> Rows:
    """The rows with their class's weight multiplied into their own."""
    if class_weights is None:
        return rows
    weights = class_weights[rows.labels]
    return replace(rows, weights=weights if rows.weights is None else rows.weights * weights)


def balanced_class_weights(counts: list[int]) -> Tensor:
    """float32 `[classes]`: N / (K · count), so that every class has the same total weight and the mean is 1."""
    each = torch.tensor(counts, dtype=torch.float64)
    return (each.sum() / (len(counts) * each)).float()


class TrainingRows:
    """Batches of the selected rows; the order of an epoch depends on the seed and the epoch alone.

    Rows that are held lie on `device` if they take at most half of the memory that is free there.
    """

    def __init__(
        self,
        data: EncodedData,
        selection: Selection,
        memory_budget: int,
        shuffle_buffer: int,
        device: torch.device = CPU,
    ):
        self._data, self._selection, self._buffer_rows = data, selection, shuffle_buffer
        self.count = selection.count(data.count("train"))
        needed = data.nbytes("train") * self.count / max(1, data.count("train"))
        self._held: Rows | None = None
        if needed <= memory_budget:
            parts = [selection.of_chunk(data.load(c), c.first) for c in data.chunks("train")]
            self._held = Rows.concatenate([part for part in parts if len(part)])
            if device.type == "cuda" and needed <= torch.cuda.mem_get_info(device)[0] / 2:
                self._held = self._held.to(device)

    def batches(self, batch_size: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Rows]:
        """The batches of one epoch, without the first `skip`."""
        if self._held is None:
            batches = self._streamed(batch_size, epoch_generator(seed, epoch))
            for _ in range(skip):
                next(batches)
            yield from batches
            return
        order = self.order(seed, epoch).to(self._held.labels.device)
        for start in range(skip * batch_size, self.count, batch_size):
            yield self.select(order[start : start + batch_size])

    def order(self, seed: int, epoch: int) -> Tensor:
        """The numbers of an epoch's rows among those selected, in the order of its batches, where they are held:
        int64 `[rows]`.
        """
        return torch.randperm(self.count, generator=epoch_generator(seed, epoch))

    def select(self, numbers: Tensor) -> Rows:
        """Rows by their numbers among those selected, where these are held."""
        assert self._held is not None
        return self._held.select(numbers.to(self._held.labels.device))

    def _streamed(self, batch_size: int, generator: torch.Generator) -> Iterator[Rows]:
        """Chunks in random order through a buffer that is shuffled whenever it is full."""
        chunks = self._data.chunks("train")
        waiting: list[Rows] = []
        for place in torch.randperm(len(chunks), generator=generator).tolist():
            chunk = chunks[place]
            part = self._selection.of_chunk(self._data.load(chunk), chunk.first)
            if len(part):
                waiting.append(part)
            if sum(map(len, waiting)) >= self._buffer_rows:
                waiting = yield from self._emit(waiting, batch_size, generator, keep_rest=True)
        if waiting:
            yield from self._emit(waiting, batch_size, generator, keep_rest=False)

    @staticmethod
    def _emit(
        parts: list[Rows], batch_size: int, generator: torch.Generator, keep_rest: bool
    ) -> Generator[Rows, None, list[Rows]]:
        """Batches of the parts in a random order; returns what is too little for one more, if it may."""
        buffer = Rows.concatenate(parts)
        order = torch.randperm(len(buffer), generator=generator)
        whole = len(buffer) - len(buffer) % batch_size if keep_rest else len(buffer)
        for start in range(0, whole, batch_size):
            yield buffer.select(order[start : start + batch_size])
        rest = order[whole:]
        return [buffer.select(rest)] if len(rest) else []


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
