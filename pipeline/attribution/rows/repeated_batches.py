"""Batches that are iterated several times and must be the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from pipeline.attribution.errors import AttributionError
from pipeline.attribution.gradients.products import slices_of
from pipeline.attribution.model.calls import Inputs

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
# The most bytes of float64 copies of inputs that are summed at once.
_SUMMED_BYTES = 16 << 20
# The largest difference that counts as equal, as a share of the largest sum: the order of summation may differ.
_TOLERANCE = 1e-9


class RepeatedBatches:
    """Batches of (inputs, labels) that are checked during iteration. Batches without rows are left out.

    When a batch comes for the first time, its labels and one weighted sum of the inputs of each row are noted. When it
    comes for the second time, they are compared. After that, and always for a list or tuple, only the number of batches
    is compared. They are compared where the caller has them, and moved after that.

    Args:
        batches: the batches that the caller gave.
        name: the name of the batches in messages.
        naming: gives several inputs, a tuple, their names.
        device: where inputs and labels are moved to; None leaves them where they are.

    Raises:
        AttributionError: when made, if the batches can be iterated only once, come from a loader that shuffles, or the
            first batch isn't a pair of inputs and labels with one label per row. During iteration, if a later batch
            isn't such a pair, or the batches have another order, other values or another number than before.
    """

    def __init__(
        self,
        batches: Iterable[object],
        name: str,
        naming: Callable[[object], object] = lambda inputs: inputs,
        device: torch.device | None = None,
    ) -> None:
        self.name = name
        self._device = device
        self._naming = naming
        self._batches = batches
        self._fixed = isinstance(batches, list | tuple)
        self._noted: list[list[Tensor]] = []
        self._compared = 0
        self._count: int | None = None
        try:
            once = iter(batches) is batches
        except TypeError as error:
            raise AttributionError(*_no_pairs(name)) from error
        if once:
            raise AttributionError(
                f"The batches of {name} can be iterated only once.", "Give a list or a data loader."
            )
        if any(isinstance(sampler, _RANDOM) for sampler in _samplers(batches)):
            raise AttributionError(f"The data loader of {name} shuffles.", "Give one with shuffle=False.")
        next(iter(self), None)

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        place = 0
        for batch in self._batches:
            inputs, labels = _pair(batch, place, self.name, self._naming)
            if not self._fixed:
                self._compare(place, inputs, labels)
            place += 1
            if len(labels):
                yield (inputs, labels) if self._device is None else _moved(inputs, labels, self._device)
        if self._count not in (None, place):
            self._raise_changed()
        self._count = place

    def _compare(self, place: int, inputs: Inputs, labels: Tensor) -> None:
        if place < self._compared:
            return
        found = [labels.detach().clone(), *_sums(inputs)]
        if place == len(self._noted):
            self._noted.append(found)
            return
        before, self._noted[place] = self._noted[place], []
        self._compared = place + 1
        if len(found) != len(before) or not all(map(_same, before, found)):
            self._raise_changed()

    def _raise_changed(self) -> None:
        raise AttributionError(
            f"{self.name} comes in another order or with other values each time.",
            "Give it without shuffling and augmentation.",
        )


def _samplers(batches: object) -> list[object]:
    return [
        getattr(batches, "sampler", None),
        getattr(getattr(batches, "batch_sampler", None), "sampler", None),
    ]


def _no_pairs(name: str) -> tuple[str, str]:
    return (
        f"What is given as {name} is not batches of (inputs, labels).",
        "Give a list of such pairs, [(inputs, labels)], or a data loader.",
    )


def _pair(batch: object, place: int, name: str, naming: Callable[[object], object]) -> tuple[Inputs, Tensor]:
    inputs, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (None, None)
    if not isinstance(labels, Tensor) or not labels.dim():
        raise AttributionError(*_no_pairs(name))
    inputs = naming(inputs)
    for tensor in _tensors(inputs):
        count = len(tensor) if tensor.dim() else 0
        if count != len(labels):
            raise AttributionError(
                f"Batch {place} of {name} has {count} inputs and {len(labels)} labels.",
                "Give one label for each row, the batch first.",
            )
    return inputs, labels  # type: ignore[return-value]


def _moved(inputs: Inputs, labels: Tensor, device: torch.device) -> tuple[Inputs, Tensor]:
    if isinstance(inputs, Mapping):
        inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }
    elif isinstance(inputs, Tensor):
        inputs = inputs.to(device)
    return inputs, labels.to(device)


def _tensors(inputs: object) -> list[Tensor]:
    given = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    return [each for each in given if isinstance(each, Tensor)]


def _sums(inputs: Inputs) -> Iterator[Tensor]:
    """Yields, for every input, one weighted sum of each row: float64 ``[batch]``.

    The weights differ, so the sum changes if values change places, as in a flipped image.
    """
    for tensor in _tensors(inputs):
        if tensor.layout is not torch.strided:
            continue
        rows = (
            tensor.detach().reshape(len(tensor), -1) if tensor.numel() else tensor.new_zeros(len(tensor), 1)
        )
        weights = torch.linspace(1, 2, rows.shape[1], dtype=torch.float64, device=rows.device)
        parts = [
            rows[some].double() @ weights for some in slices_of(len(rows), 8 * len(weights), _SUMMED_BYTES)
        ]
        yield torch.cat(parts) if parts else weights[:0]


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if not first.is_floating_point():
        return torch.equal(first, second)
    finite = first[first.isfinite()].abs()
    tolerance = _TOLERANCE * float(finite.max()) if len(finite) else 0.0
    return torch.allclose(first, second, rtol=_TOLERANCE, atol=tolerance, equal_nan=True)
