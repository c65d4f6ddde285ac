"""Matrix products the way processors like them: aligned rows, slices that fit a cache, symmetric blocks.

A bias makes widths odd (785 = 784 + 1), and a product whose rows don't start at a multiple of 64 bytes runs at
two thirds of the speed (measured). So matrices here may be views of wider storage: ``[rows, 785]`` with a
stride of 800.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Bytes of a slice that several operations read in turn: about what a core's cache holds.
CACHE_BYTES = 1 << 20
# Rows that are summed in the values' own precision before the sum goes on in float64.
SUMMED_ROWS = 4096
# Columns of a block in a symmetric product: wide enough for speed, narrow enough to leave out the mirror.
_BLOCK = 192
# Numbers that a row's storage is a multiple of.
_ALIGNMENT = 16
# Dtypes whose rows are aligned. torch's bfloat16 product on the CPU reads beyond the rows of its left factor, times 0,
# and NaN times 0 is NaN: what lies between rows must not be uninitialised.
_ALIGNED_DTYPES = (torch.float32, torch.float64)


def aligned_width(width: int) -> int:
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def aligned_empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised, in the dtype and on the device of ``like``, its rows aligned in single and double precision."""
    if like.dtype not in _ALIGNED_DTYPES:
        return like.new_empty(*shape)
    return like.new_empty(*shape[:-1], aligned_width(shape[-1]))[..., : shape[-1]]


def aligned(values: Tensor) -> Tensor:
    """The same values with rows as in ``aligned_empty``; ``values`` itself where they are already."""
    if values.stride(-1) == 1 and values.stride(-2) % _ALIGNMENT == 0:
        return values
    return aligned_empty(values.shape, values).copy_(values)


def aligned_cat(parts: Sequence[Tensor]) -> Tensor:
    """``[batch, positions, size]`` of each, one behind the other along the positions."""
    joined = aligned_empty((len(parts[0]), sum(part.shape[1] for part in parts), parts[0].shape[2]), parts[0])
    start = 0
    for part in parts:
        joined[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    return joined


def product(left: Tensor, right: Tensor) -> Tensor:
    """``[…, inner]`` times ``[inner, columns]``: ``[…, columns]`` with aligned rows."""
    found = aligned_empty((*left.shape[:-1], right.shape[1]), left)
    torch.mm(left.flatten(0, -2), right, out=found.flatten(0, -2))
    return found


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal; tells quickly that they aren't."""
    if first is second:
        return True
    if first.shape != second.shape or not torch.equal(first[:1], second[:1]):
        return False
    return torch.equal(first, second)


def inner_products(first: Tensor, second: Tensor) -> Tensor:
    """Σ first ∘ second over all dimensions but the first: ``[batch]``; their product stays in a core's cache."""
    found = [first.new_zeros(0)]
    for rows in slices_of(len(first), first[:1].nbytes, CACHE_BYTES):
        found.append((first[rows] * second[rows]).flatten(1).sum(1))
    return torch.cat(found)


def slices_of(length: int, item_bytes: int, budget: int) -> Iterator[slice]:
    """Slices of ``length`` items that stay within a budget of bytes, of one item at least."""
    step = max(1, budget // max(1, item_bytes))
    for start in range(0, length, step):
        yield slice(start, start + step)


def covariance(values: Tensor) -> Tensor:
    """Σ v vᵀ over the rows of ``values`` ``[rows, size]``: ``[size, size]``, float64."""
    total = torch.zeros(values.shape[1], values.shape[1], dtype=torch.float64, device=values.device)
    add_upper(total, values)
    return mirrored(total)


def add_upper(total: Tensor, values: Tensor) -> None:
    """Adds Σ v vᵀ over the rows of ``values`` to float64 ``total``, in its upper triangle alone.

    Products of some rows in the dtype of ``values`` are added up in float64; blocks below the diagonal, which
    mirror those above, are left out.
    """
    size = values.shape[1]
    for first in range(0, len(values), SUMMED_ROWS):
        part = values[first : first + SUMMED_ROWS]
        for start in range(0, size, _BLOCK):
            stop = start + _BLOCK
            total[start:stop, start:] += product(part[:, start:stop].T, part[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """``total``, a sum of ``add_upper``, with the blocks below its diagonal filled in, in place."""
    for start in range(_BLOCK, len(total), _BLOCK):
        total[start:, start - _BLOCK : start] = total[start - _BLOCK : start, start:].T
    return total
