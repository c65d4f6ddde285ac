"""The rows of one training and their order; rows that do not fit into memory are streamed from disk."""

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
    """Which train rows a training uses, and with which labels and class weights.

    Attributes:
        keep: bool `[train rows]`, True for rows that are used; None uses all rows.
        weightless: bool `[train rows]`, True for rows that keep their places in the batches with the weight 0; None
            has none.
        labels: `[train rows]`, used instead of the encoded labels; None keeps those.
        class_weights: float32 `[classes]`; None weights all classes alike.
    """

    keep: np.ndarray | None = None
    weightless: np.ndarray | None = None
    labels: Tensor | None = None
    class_weights: Tensor | None = None

    def count(self, rows: int) -> int:
        return rows if self.keep is None else int(self.keep.sum())

    def of_chunk(self, rows: Rows, first: int) -> Rows:
        """The selected rows among the rows of one chunk; the chunk begins at train row `first`."""
        place = slice(first, first + len(rows))
        if self.labels is not None:
            rows = replace(rows, labels=self.labels[place].to(rows.labels.dtype))
        rows = weighted(rows, self.class_weights)
        if self.weightless is not None:
            counted = torch.from_numpy(~self.weightless[place]).float()
            rows = replace(rows, weights=counted if rows.weights is None else rows.weights * counted)
        return rows if self.keep is None else rows.select(torch.from_numpy(np.flatnonzero(self.keep[place])))


def weighted(rows: Rows, class_weights: Tensor | None) -> Rows:
    """The rows, each with its own weight multiplied by the weight of its class."""
    if class_weights is None:
        return rows
    weights = class_weights[rows.labels]
    return replace(rows, weights=weights if rows.weights is None else rows.weights * weights)


def balanced_class_weights(counts: list[int]) -> Tensor:
    """Weights that give every class the same total weight, with a mean of 1 over the rows.

    Args:
        counts: how many train rows each class has.

    Returns:
        float32 `[classes]`: N / (K · count) for N rows and K classes.
    """
    each = torch.tensor(counts, dtype=torch.float64)
    return (each.sum() / (len(counts) * each)).float()


class TrainingRows:
    """Batches of the selected rows; the order of an epoch depends on the seed and the epoch alone.

    Args:
        data: the encoded data of the run.
        selection: which train rows are used.
        memory_budget: bytes; the rows are held in memory if they take no more, else they are streamed.
        shuffle_buffer: how many rows the shuffle buffer holds while rows are streamed.
        device: a GPU holds the rows if they take at most half of its free memory; otherwise the CPU holds them.
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
        """The batches of one epoch (counted from 0), without the first `skip` batches."""
        if self._held is None:
            batches = self._streamed(batch_size, _epoch_generator(seed, epoch))
            for _ in range(skip):
                next(batches)
            yield from batches
            return
        order = self.order(seed, epoch).to(self._held.labels.device)
        for start in range(skip * batch_size, self.count, batch_size):
            yield self.select(order[start : start + batch_size])

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch whose rows are held: places among the selected rows, int64 `[rows]`."""
        return torch.randperm(self.count, generator=_epoch_generator(seed, epoch))

    def select(self, numbers: Tensor) -> Rows:
        """Rows by their places among the selected rows; the rows must be held in memory."""
        assert self._held is not None
        return self._held.select(numbers.to(self._held.labels.device))

    def _streamed(self, batch_size: int, generator: torch.Generator) -> Iterator[Rows]:
        """Batches from chunks in random order; a buffer collects rows and is shuffled whenever it is full."""
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
        """Yield batches of the parts' rows in random order.

        Returns:
            The rows that are too few for one more batch, if `keep_rest`; else they are yielded as a smaller batch.
        """
        buffer = Rows.concatenate(parts)
        order = torch.randperm(len(buffer), generator=generator)
        whole = len(buffer) - len(buffer) % batch_size if keep_rest else len(buffer)
        for start in range(0, whole, batch_size):
            yield buffer.select(order[start : start + batch_size])
        rest = order[whole:]
        return [buffer.select(rest)] if len(rest) else []


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)
