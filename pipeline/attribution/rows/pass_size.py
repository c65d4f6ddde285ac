"""How many rows fit in one pass of a model, by the bytes that one row takes.

The logits of a language model take most of the memory: 50 MB for a row of 256 tokens and 50,000 words. So passes over
rows of such a model take few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.attribution.model.calls import Inputs, predict, repeated_rows, row_count, select_inputs
from pipeline.attribution.model.modes import evaluation_mode
from pipeline.attribution.rows.batch import Batch

# About the most bytes of what a pass keeps for its rows. A GPU is faster with more rows.
PASS_BYTES = 512 << 20
GPU_PASS_BYTES = 8 << 30
# The copies of the outputs in a pass: the losses' own numbers, gradients, and products with them.
_OUTPUT_COPIES = 4
# Model -> the shapes of a row's inputs -> the bytes of a row.
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[torch.Size, ...], int]] = WeakKeyDictionary()


def rows_at_once(model: nn.Module, inputs: Inputs, passes: int = 1) -> int:
    """Returns how many rows like the first one fit in memory; at least one.

    The first call for rows of a shape runs the model on one row.

    Args:
        model: the model.
        inputs: a batch of rows.
        passes: how many passes over the rows are held at the same time.
    """
    on_gpu = next(model.parameters()).is_cuda
    return max(1, (GPU_PASS_BYTES if on_gpu else PASS_BYTES) // (passes * _row_bytes(model, inputs)))


def parts_of(model: nn.Module, batch: Batch, passes: int = 1) -> Iterator[Batch]:
    """Yields the rows of a batch, as many at a time as fit in one pass. The arguments are those of ``rows_at_once``."""
    count = row_count(batch.inputs)
    step = rows_at_once(model, batch.inputs, passes) if count > 1 else 1
    if count <= step:
        yield batch
        return
    for rows in torch.arange(count).split(step):
        yield batch.select(rows)


@dataclass(frozen=True)
class PassSizedBatches:
    """Batches of (inputs, labels), cut into parts that fit in one pass each.

    Attributes:
        batches: the batches.
        model: the model that takes them.
    """

    batches: Iterable[tuple[Inputs, Tensor]]
    model: nn.Module

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for inputs, labels in self.batches:
            step = rows_at_once(self.model, inputs)
            if len(labels) <= step:
                yield inputs, labels
                continue
            for first in range(0, len(labels), step):
                some = slice(first, first + step)
                yield select_inputs(inputs, some), labels[some]


def _row_bytes(model: nn.Module, inputs: Inputs) -> int:
    one = repeated_rows(inputs, 1)
    tensors = [one] if isinstance(one, Tensor) else list(one.values())
    known, key = _KNOWN.setdefault(model, {}), tuple(each.shape for each in tensors)
    if key not in known:
        known[key] = _measured(model, one)
    return known[key]


def _measured(model: nn.Module, one: Inputs) -> int:
    """Returns the bytes that a forward pass of one row keeps for a backward pass, and those of its outputs."""
    # What is kept is what a backward pass to all parameters needs, whether they are trained or not.
    parameters = {
        name: each.detach().requires_grad_(each.is_floating_point())
        for name, each in model.named_parameters()
    }
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = max(kept.get(place, 0), tensor.nbytes)
        return tensor

    with evaluation_mode(model), torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = predict(model, one, parameters)
    return max(1, sum(kept.values()) + _OUTPUT_COPIES * outputs.nbytes)
